package sshd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/flow"
)

// cgroupOf finds the directory of a sandbox's cgroup by its id, which is its inode.
func cgroupOf(t *testing.T, b *box) string {
	t.Helper()
	found := ""
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil // it comes and goes
		}
		if info, err := entry.Info(); err == nil && info.Sys().(*syscall.Stat_t).Ino == b.CgroupID() {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	if err != nil || found == "" {
		t.Fatalf("no cgroup %d: %v", b.CgroupID(), err)
	}
	return found
}

// inside describes a process of the sandbox's cgroup, seen from the host.
type inside struct {
	command string
	net     string
	status  map[string]string
}

func look(t *testing.T, pid string) (p inside, ok bool) {
	t.Helper()
	command, err1 := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	net, err2 := os.Readlink(filepath.Join("/proc", pid, "ns/net"))
	status, err3 := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if errors.Join(err1, err2, err3) != nil {
		return p, false // gone
	}
	p = inside{command: strings.ReplaceAll(string(command), "\x00", " "), net: net, status: map[string]string{}}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		p.status[name] = strings.TrimSpace(value)
	}
	return p, true
}

// All that SSH starts is in the sandbox: its cgroup, its network namespace, its user,
// without a privilege; a shell, a command, a file transfer and the far end of a
// forwarding alike. And the fence is around it.
func TestAllIsFenced(t *testing.T) {
	f := newFixture(t, Limits{})
	alpha := f.sandbox("alpha")
	client := f.mustDial("alpha")
	begin := func(s *ssh.Session, start func() error) *bufio.Reader {
		out, err := s.StdoutPipe()
		must(t, err)
		must(t, start())
		return bufio.NewReader(out)
	}
	session := func() *ssh.Session {
		s, err := client.NewSession()
		must(t, err)
		return s
	}
	shell := session()
	must(t, shell.RequestPty("dumb", 24, 80, ssh.TerminalModes{}))
	in, err := shell.StdinPipe()
	must(t, err)
	screen := begin(shell, shell.Shell)
	_, err = io.WriteString(in, "exec -a in-a-shell sleep 1000\n")
	must(t, err)
	go func() { _, _ = io.Copy(io.Discard, screen) }()

	command := session()
	begin(command, func() error { return command.Start("exec -a by-exec sleep 1000") })

	transfer := session()
	hello, err := transfer.StdinPipe()
	must(t, err)
	answer := begin(transfer, func() error { return transfer.RequestSubsystem("sftp") })
	_, err = hello.Write([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3}) // SSH_FXP_INIT, version 3
	must(t, err)
	_, err = answer.ReadByte()
	must(t, err)

	if _, refused := openDirect(client, "127.0.0.1", 9); refused == nil { // nobody listens; the dialler is there
		t.Error("something listens")
	}

	hostNet, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	procs := filepath.Join(cgroupOf(t, alpha), "cgroup.procs")
	seen := map[string]inside{}
	until(t, "all four to run", func() bool {
		text, err := os.ReadFile(procs)
		must(t, err)
		for pid := range strings.Lines(string(text)) {
			p, ok := look(t, strings.TrimSpace(pid))
			for _, name := range []string{"in-a-shell 1000", "by-exec 1000", "sandbox-sftp", "sandbox-dial"} {
				if ok && strings.Contains(p.command, name) {
					seen[name] = p
				}
			}
		}
		return len(seen) == 4
	})
	user := strings.Join([]string{fmt.Sprint(testUID), fmt.Sprint(testUID), fmt.Sprint(testUID), fmt.Sprint(testUID)}, "\t")
	space := seen["by-exec 1000"].net
	for name, p := range seen {
		if p.net == hostNet || p.net != space {
			t.Errorf("%s is in the network namespace %s", name, p.net)
		}
		for field, want := range map[string]string{
			"Uid": user, "Gid": user, "CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapPrm": "0000000000000000",
			"NoNewPrivs": "1", "Seccomp": "2",
		} {
			if p.status[field] != want {
				t.Errorf("%s: %s is %q", name, field, p.status[field])
			}
		}
	}

	if r := f.ssh("alpha@node", "exec 3<>/dev/tcp/192.0.2.9/80 && cat <&3"); r.code == 0 {
		t.Errorf("an undeclared address is reached: %+v", r)
	}
	until(t, "the denial's record", func() bool {
		return len(f.ledger.find(func(r *flow.Record) bool {
			return r.Mode == flow.ModeTransparent && !r.Verdict.Passes() && r.Address == "192.0.2.9" && strings.HasSuffix(r.Binary, "/bash") && r.Sandbox == "alpha"
		})) == 1
	})
}
