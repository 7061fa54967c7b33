package e2e

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// Standard streams go through as they are: every byte, both ends of file, and the
// signal of a reader that has gone.
func TestStreams(t *testing.T) {
	f := newFixture(t)
	policy := f.allow([]int{443}, "/bin/none")
	run := func(t *testing.T, script string) *running {
		t.Helper()
		return f.with(t).prepare("--policy", policy, "--", "/bin/sh", "-c", script)
	}
	t.Run("binary data", func(t *testing.T) {
		data := make([]byte, 8<<20)
		_, _ = rand.Read(data)
		r := run(t, "cat; echo done >&2")
		r.cmd.Stdin = bytes.NewReader(data)
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if got := r.wait(); got.stdout != string(data) || got.stderr != "done\n" || got.status != 0 {
			t.Errorf("%d of %d bytes, status %d, stderr %q", len(got.stdout), len(data), got.status, got.stderr)
		}
	})
	t.Run("no input", func(t *testing.T) {
		r := run(t, "cat; echo end")
		r.cmd.Args = append([]string{"sh", "-c", `exec "$@" <&-`, "sh"}, r.cmd.Args...)
		r.cmd.Path = "/bin/sh"
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if got := r.wait(); got.stdout != "end\n" || got.status != 0 {
			t.Errorf("status %d, said %q\n%s", got.status, got.stdout, got.stderr)
		}
	})
	t.Run("input that is not read", func(t *testing.T) {
		r := run(t, "exit 6")
		in, err := r.cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if got := r.wait(); got.status != 6 {
			t.Errorf("status %d\n%s", got.status, got.stderr)
		}
	})
	t.Run("reader gone", func(t *testing.T) {
		r := run(t, "yes; echo status $? >&2; exec yes")
		r.cmd.Stdout = nil
		out, err := r.cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1<<20)); err != nil {
			t.Error(err)
		}
		out.Close()
		if got := r.wait(); got.status != 128+int(unix.SIGPIPE) || !strings.Contains(got.stderr, "status 141\n") {
			t.Errorf("status %d\n%s", got.status, got.stderr)
		}
	})
	t.Run("reader of records gone", func(t *testing.T) {
		r := run(t, "for i in 1 2 3; do curl -s https://"+deniedName+"/; done; exit 8")
		// The last --records is the one that counts.
		r.cmd.Args = insertBefore(r.cmd.Args, "--policy", "--records", "-")
		r.cmd.Stdout = nil
		out, err := r.cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.Close()
		got := r.wait()
		if got.status != 8 || !strings.Contains(got.stderr, "records are being lost: write records: ") {
			t.Errorf("status %d\n%s", got.status, got.stderr)
		}
		noneAbandoned(t)
	})
	t.Run("reader of errors gone", func(t *testing.T) {
		r := run(t, "exit 125")
		r.cmd.Args = insertBefore(r.cmd.Args, "--policy", "--user", "no-such-user")
		r.cmd.Stderr = nil
		errs, err := r.cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		errs.Close()
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if got := r.wait(); got.status != 125 && got.status != -1 {
			t.Errorf("status %d", got.status)
		}
	})
}

func insertBefore(args []string, before string, what ...string) []string {
	for i, arg := range args {
		if arg == before {
			return append(append(append([]string(nil), args[:i]...), what...), args[i:]...)
		}
	}
	return args
}

// A socket that the caller has open is past the fence: the command gets pipes for
// streams that are sockets, and no other descriptor.
func TestForeignSocketsStayOutside(t *testing.T) {
	f := newFixture(t)
	python := realPath(t, "/usr/bin/python3")
	policy := f.allow([]int{443}, "/bin/none")
	// Each descriptor of the command is said on the standard error, with its kind;
	// then whatever came is sent back, and to every socket that there is.
	script := f.file("fds.py", `
import os, socket, stat, sys
for fd in range(64):
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        continue
    kind = 'socket' if stat.S_ISSOCK(mode) else 'pipe' if stat.S_ISFIFO(mode) else 'other'
    print(fd, kind, file=sys.stderr)
    if kind == 'socket':
        socket.socket(fileno=os.dup(fd)).sendall(b'got out')
sys.stdout.write('echo ' + sys.stdin.read())
`, 0o644)

	inherited, err := f.env.Dial(t.Context(), "tcp", netip.MustParseAddrPort(deniedIPv4+":7"))
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	foreign, err := inherited.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	ours, theirs := streamSockets(t)

	r := f.prepare("--policy", policy, "--", python, script)
	r.cmd.Stdin, r.cmd.Stdout = theirs, theirs
	r.cmd.ExtraFiles = []*os.File{foreign, theirs}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	payload := strings.Repeat("payload ", 40_000)
	go func() {
		_, _ = io.WriteString(ours, payload)
		_ = ours.CloseWrite()
	}()
	said := rest(t, ours)
	got := r.wait()
	if got.status != 0 || said != "echo "+payload {
		t.Errorf("status %d, %d bytes came back, want %d", got.status, len(said), len(payload)+5)
	}
	if got.stderr != "0 pipe\n1 pipe\n2 pipe\n" {
		t.Errorf("descriptors of the command:\n%s", got.stderr)
	}
	flows, err := f.env.Arrived(testenv.To(netip.MustParseAddr(deniedIPv4)))
	if err != nil {
		t.Fatal(err)
	}
	for _, flow := range flows {
		if len(flow.Payload) > 0 {
			t.Errorf("arrived: %v %q", flow, flow.Payload)
		}
	}
}

// A peer that closes its socket ends the command as a pipe's reader would.
func TestSocketReaderGone(t *testing.T) {
	f := newFixture(t)
	ours, theirs := streamSockets(t)
	r := f.prepare("--policy", f.allow([]int{443}, "/bin/none"), "--", "yes")
	r.cmd.Stdout = theirs
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if _, err := io.ReadFull(ours, make([]byte, 1<<20)); err != nil {
		t.Error(err)
	}
	ours.Close()
	if got := r.wait(); got.status != 128+int(unix.SIGPIPE) || got.stderr != "" {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
}

// streamSockets returns a connection and its other end, to be given away.
func streamSockets(t *testing.T) (*net.UnixConn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); theirs.Close() })
	return conn.(*net.UnixConn), theirs
}
