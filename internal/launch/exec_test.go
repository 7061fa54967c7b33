package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/tty"
)

func TestExitStatus(t *testing.T) {
	dir := probeDir(t)
	n := start(t, visible(dir))
	for _, code := range []int{0, 1, 2, 42, 125, 126, 127, 128, 200, 255} {
		r := runIn(t, n, command("sh", "-c", "exit "+strconv.Itoa(code)))
		if r.status.ExitCode() != code {
			t.Errorf("exit %d: %+v", code, r.status)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSEGV, syscall.SIGPIPE} {
		r := runIn(t, n, command("sh", "-c", fmt.Sprintf("kill -%d $$", sig)))
		if r.status.Signal != sig || r.status.ExitCode() != 128+int(sig) {
			t.Errorf("signal %v: %+v", sig, r.status)
		}
	}
}

func TestCommandThatCannotStart(t *testing.T) {
	dir := probeDir(t)
	plain, closed := filepath.Join(dir, "plain"), filepath.Join(dir, "closed")
	if err := errors.Join(os.WriteFile(plain, []byte("x"), 0o644), os.Mkdir(closed, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "garbage"), []byte("\x7fELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	n := start(t, visible(dir))
	in := func(dir string) Command {
		c := command("true")
		c.Dir = dir
		return c
	}
	tests := []struct {
		name    string
		command Command
		code    int
		is      error
		hint    string
	}{
		{"not found", command("no-such-program"), ExitNotFound, unix.ENOENT, ""},
		{"path not found", command("/no/such"), ExitNotFound, unix.ENOENT, ""},
		{"not executable", command(plain), ExitNotExec, unix.EACCES, ""},
		{"a directory", command("/usr"), ExitNotExec, unix.EACCES, ""},
		{"no format", command(dir + "/garbage"), ExitNotExec, unix.ENOEXEC, ""},
		{"closed directory", in(closed), ExitRingfence, unix.EACCES, "may not enter"},
		{"missing directory", in("/no/such"), ExitRingfence, unix.ENOENT, "no directory"},
		{"directory of the host's /tmp", in("/tmp/no-such"), ExitRingfence, unix.ENOENT, "no directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tryIn(t, n, tt.command)
			var step *StepError
			if !errors.As(err, &step) {
				t.Fatalf("error %v is no StepError", err)
			}
			if step.Code != tt.code || !errors.Is(err, tt.is) || !strings.Contains(step.Hint, tt.hint) {
				t.Errorf("got %d, %v, hint %q", step.Code, err, step.Hint)
			}
		})
	}
	if r := runIn(t, n, command("true")); r.status.Code != 0 {
		t.Errorf("afterwards: %+v", r)
	}
}

func TestBadCommands(t *testing.T) {
	n := start(t)
	root := command("true")
	root.UID = 0
	relative := command("true")
	relative.Dir = "somewhere"
	zero := command("true", "a\x00b")
	for name, c := range map[string]Command{"root": root, "relative": relative, "zero": zero, "none": command()} {
		if _, err := tryIn(t, n, c); !errors.Is(err, ErrRoot) && !errors.Is(err, ErrBadCommand) {
			t.Errorf("%s: %v", name, err)
		}
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket, other := os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")
	defer socket.Close()
	defer other.Close()
	c := command("true")
	c.Stdio = [3]*os.File{socket, socket, socket}
	if _, err := n.Exec(t.Context(), c); !errors.Is(err, ErrBadCommand) {
		t.Errorf("a socket got in: %v", err)
	}
	dir, err := os.Open("/run")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c.Stdio = [3]*os.File{dir, dir, dir}
	if _, err := n.Exec(t.Context(), c); !errors.Is(err, ErrBadCommand) {
		t.Errorf("a directory got in: %v", err)
	}
}

// Arguments, variables and directories are bytes, not text.
func TestBytesArriveUnchanged(t *testing.T) {
	n := start(t)
	c := command("sh", "-c", `printf '%s|%s' "$1" "$V"`, "sh", "a\xff\xfe b\n")
	c.Env = append(c.Env, "V=\x80x")
	if r := runIn(t, n, c); r.out != "a\xff\xfe b\n|\x80x" {
		t.Errorf("got %q", r.out)
	}
}

func TestLargeCommand(t *testing.T) {
	n := start(t)
	c := command("sh", "-c", `echo ${#V}; for a; do echo ${#a}; done | sort -u`, "sh")
	for range 10 {
		c.Argv = append(c.Argv, strings.Repeat("x", 100_000))
	}
	c.Env = append(c.Env, "V="+strings.Repeat("y", 120_000))
	if r := runIn(t, n, c); r.out != "120000\n100000\n" {
		t.Errorf("got %q, %q", r.out, r.err)
	}
}

func TestInitReapsOrphans(t *testing.T) {
	n := start(t)
	script := `(sh -c 'exit 3' & sh -c 'exit 4' &) ; sleep 0.2; grep -sh '^State:.Z' /proc/[0-9]*/status | wc -l`
	if got := lines(t, n, script)[0]; got != "0" {
		t.Errorf("%s zombies are left", got)
	}
}

func TestInitForwardsSignals(t *testing.T) {
	n := start(t)
	r, w := pipe(t)
	c := command("sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
	c.Stdio = [3]*os.File{r, w, w}
	p, err := n.Exec(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	buf := make([]byte, 6)
	if _, err := r.Read(buf); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(n.InitPID(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	if status, err := p.Wait(ctx); err != nil || status.Code != 9 {
		t.Errorf("status %+v, %v", status, err)
	}
	select {
	case <-n.Done():
		t.Error("init ended with the signal")
	default:
	}
}

func TestSignalReachesGroup(t *testing.T) {
	n := start(t)
	c := command("sleep", "1000")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c.Stdio = [3]*os.File{null, null, null}
	p, err := n.Exec(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context()); err != nil || status.ExitCode() != 130 {
		t.Errorf("status %+v, %v", status, err)
	}
	if err := p.Signal(syscall.SIGINT); err == nil {
		t.Error("a process that has ended was signalled")
	}
}

func TestTerminal(t *testing.T) {
	n := start(t)
	c := command("sh", "-c", "tty; stty size; awk '{print $5==$8}' /proc/$$/stat; cat < /dev/tty; ls /dev/pts")
	c.Terminal = [3]bool{true, true, true}
	c.Size = tty.Size{Rows: 33, Cols: 77}
	p, err := n.Exec(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Terminal.Close()
	if _, err := p.Terminal.WriteString("typed\n\x04"); err != nil {
		t.Fatal(err)
	}
	out := readAll(p.Terminal) // to EIO
	if status, err := p.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Errorf("status %+v, %v", status, err)
	}
	for _, want := range []string{"/dev/pts/0\r\n", "33 77\r\n", "\r\n1\r\n", "typed\r\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
}

func TestCloseKillsEverything(t *testing.T) {
	needRoot(t)
	g := testGroup(t)
	n := start(t, func(c *Config) { c.Cgroup = g.File() })
	c := command("sh", "-c", "setsid sleep 1000 & trap '' TERM HUP; sleep 1000")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c.Stdio = [3]*os.File{null, null, null}
	p, err := n.Exec(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context()); err != nil || status.Signal != syscall.SIGKILL {
		t.Errorf("status %+v, %v", status, err)
	}
	if procs, err := g.Procs(); err != nil || len(procs) != 0 {
		t.Errorf("left: %v, %v", procs, err)
	}
	if _, err := n.Exec(t.Context(), command("true")); err == nil {
		t.Error("Exec after Close")
	}
}

func TestExecAfterInitDied(t *testing.T) {
	n := start(t)
	if err := unix.Kill(n.InitPID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-n.Done()
	for range 2 { // with the process that was started ahead, and without
		if _, err := tryIn(t, n, command("true")); !errors.Is(err, ErrClosed) {
			t.Errorf("error %v", err)
		}
	}
}

// A working directory below a mask is shown, whatever the bytes of its name.
func TestWorkingDirectoryOfAnyBytes(t *testing.T) {
	dir := filepath.Join(probeDir(t), "w\xff\x1b[31m\n\u202e")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := start(t, visible(dir))
	c := command("sh", "-c", "pwd -P")
	c.Dir = dir
	if r := runIn(t, n, c); r.out != dir+"\n" {
		t.Errorf("%+v", r)
	}
}
