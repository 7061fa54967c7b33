package tty

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// screen is what a person sees and types: the master of the outer terminal.
type screen struct {
	master *os.File
	mu     sync.Mutex
	seen   bytes.Buffer
}

func newScreen(t *testing.T, master *os.File) *screen {
	t.Helper()
	s := &screen{master: master}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			s.mu.Lock()
			s.seen.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.String()
}

func (s *screen) typeText(t *testing.T, text string) {
	t.Helper()
	if _, err := s.master.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func (s *screen) await(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(s.text(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q on the screen:\n%q", want, s.text())
		}
	}
}

func openPair(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, slave, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	return master, slave
}

func termios(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *state
}

// shell runs bash with job control behind an inner terminal, and a session between
// that and an outer one.
func shell(t *testing.T) (*screen, *exec.Cmd, *Session, *os.File) {
	t.Helper()
	outerMaster, outer := openPair(t)
	if err := SetSize(outer, Size{Rows: 31, Cols: 97}); err != nil {
		t.Fatal(err)
	}
	master, slave := openPair(t)
	bash := exec.Command("bash", "--norc", "--noprofile", "-i")
	bash.Env = []string{"PS1=ready> ", "PATH=" + os.Getenv("PATH"), "TERM=dumb", "HISTFILE="}
	bash.Stdin, bash.Stdout, bash.Stderr = slave, slave, slave
	bash.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := bash.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	s, err := NewSession(master, outer, outer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bash.Process.Kill(); s.Finish(context.Background()) })
	return newScreen(t, outerMaster), bash, s, outer
}

func TestSession(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	screen, bash, session, outer := shell(t)
	screen.await(t, "ready> ")

	screen.typeText(t, "stty size\r")
	screen.await(t, "31 97")

	if err := SetSize(outer, Size{Rows: 12, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	session.signals <- unix.SIGWINCH // the test is not in the outer terminal's session
	screen.typeText(t, "stty size; stty size\r")
	screen.await(t, "12 40")

	screen.typeText(t, "sleep 1000; echo status $?\r")
	time.Sleep(50 * time.Millisecond)
	screen.typeText(t, "\x03") // Ctrl-C
	screen.typeText(t, "echo after-$?\r")
	screen.await(t, "after-130")

	screen.typeText(t, "sleep 1000\r")
	time.Sleep(50 * time.Millisecond)
	screen.typeText(t, "\x1a") // Ctrl-Z
	screen.await(t, "Stopped")
	screen.typeText(t, "kill %1; wait; jobs; exit 7\r")
	if err := bash.Wait(); err == nil || bash.ProcessState.ExitCode() != 7 {
		t.Errorf("bash ended with %v", err)
	}
	session.Finish(t.Context())
	outer.Close()
	awaitGoroutines(t, goroutines+1) // the screen's own
}

func awaitGoroutines(t *testing.T, most int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= most {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left, want at most %d", runtime.NumGoroutine(), most)
}

func TestTerminalIsPutBack(t *testing.T) {
	_, outer := openPair(t)
	master, slave := openPair(t)
	before := termios(t, outer)
	s, err := NewSession(master, outer, outer)
	if err != nil {
		t.Fatal(err)
	}
	if raw := termios(t, outer); raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Errorf("not raw: lflag %#x", raw.Lflag)
	}
	slave.Close()
	s.Finish(t.Context())
	s.Finish(t.Context())
	if diff := cmp.Diff(before, termios(t, outer)); diff != "" {
		t.Errorf("terminal (-before +after):\n%s", diff)
	}
	// The caller's open file blocks, as before: the shell that started us shares it.
	flags, err := unix.FcntlInt(outer.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags of the outer terminal: %#x, %v", flags, err)
	}
}

// Output that is still on its way when the command ends is shown.
func TestFinishDrains(t *testing.T) {
	outerMaster, outer := openPair(t)
	screen := newScreen(t, outerMaster)
	master, slave := openPair(t)
	s, err := NewSession(master, nil, outer)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("0123456789", 20_000) + "end"
	go func() {
		_, _ = slave.WriteString(want)
		_ = slave.Close()
	}()
	s.Finish(t.Context())
	screen.await(t, "end")
	if got := len(screen.text()); got != len(want) {
		t.Errorf("%d bytes arrived, want %d", got, len(want))
	}
}

// A process that keeps the inner terminal open does not keep Finish.
func TestFinishIsBounded(t *testing.T) {
	_, outer := openPair(t)
	master, _ := openPair(t)
	s, err := NewSession(master, outer, outer)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	done := make(chan struct{})
	go func() { s.Finish(ctx); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Finish hangs")
	}
}

func TestNewSessionRefusesFiles(t *testing.T) {
	master, _ := openPair(t)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := NewSession(master, null, null); err == nil {
		t.Error("a session on /dev/null")
	}
}
