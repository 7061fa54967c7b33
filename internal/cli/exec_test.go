package cli

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/tty"
)

// person sits at a terminal.
type person struct {
	master *os.File
	mu     sync.Mutex
	seen   bytes.Buffer
}

func sitDown(t *testing.T) (*person, *os.File) {
	t.Helper()
	master, slave, err := tty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	p := &person{master: master}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			p.mu.Lock()
			p.seen.Write(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return p, slave
}

func (p *person) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

func (p *person) await(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(p.text(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q on the screen:\n%q", want, p.text())
		}
	}
}

func (p *person) typeText(t *testing.T, text string) {
	t.Helper()
	if _, err := p.master.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// On a terminal the command has one of the same size, what is typed is the command's,
// and ours is as it was afterwards.
func TestExecOnTerminal(t *testing.T) {
	d, env := newDouble(t)
	d.sandboxes["web"] = &ringfencev1.Sandbox{Name: "web"}
	p, terminal := sitDown(t)
	if err := tty.SetSize(terminal, tty.Size{Rows: 33, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	before, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	env.Stdin, env.Stdout, env.Stderr = terminal, terminal, terminal
	env.Environ = append(env.Environ, "TERM=dumb")
	done := make(chan int, 1)
	go func() {
		done <- Main(env, []string{"sandbox", "exec", "web", "sh", "-c", `stty size; echo $TERM; trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.01; done`})
	}()
	p.await(t, "33 99")
	p.await(t, "dumb")
	p.await(t, "ready")
	p.typeText(t, "\x03") // Ctrl-C is the command's
	p.await(t, "caught")
	if status := <-done; status != 9 {
		t.Errorf("status %d", status)
	}
	after, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %+v, %+v, %v", before, after, err)
	}
}

// A larger window is a larger one for the command.
func TestExecResize(t *testing.T) {
	d, env := newDouble(t)
	d.sandboxes["web"] = &ringfencev1.Sandbox{Name: "web"}
	p, terminal := sitDown(t)
	if err := tty.SetSize(terminal, tty.Size{Rows: 33, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	env.Stdin, env.Stdout, env.Stderr = terminal, terminal, terminal
	done := make(chan int, 1)
	go func() {
		done <- Main(env, []string{"sandbox", "exec", "web", "sh", "-c", `trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done`})
	}()
	p.await(t, "ready")
	if err := tty.SetSize(terminal, tty.Size{Rows: 11, Cols: 22}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), unix.SIGWINCH); err != nil { // the test is not in the terminal's session
		t.Fatal(err)
	}
	p.await(t, "11 22")
	if status := <-done; status != 0 {
		t.Errorf("status %d", status)
	}
}

// execPiped runs a command with pipes as its streams.
func execPiped(t *testing.T, env Env, args ...string) (stdin io.WriteCloser, stdout *os.File, done <-chan int) {
	t.Helper()
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inRead.Close(); inWrite.Close(); outRead.Close() })
	env.Stdin, env.Stdout, env.Stderr = inRead, outWrite, outWrite
	ended := make(chan int, 1)
	go func() {
		ended <- Main(env, args)
		outWrite.Close()
	}()
	return inWrite, outRead, ended
}

// A signal that asks us to end is the command's.
func TestExecSignals(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		d, env := newDouble(t)
		d.sandboxes["web"] = &ringfencev1.Sandbox{Name: "web"}
		_, stdout, done := execPiped(t, env, "sandbox", "exec", "web", "sh", "-c", `trap 'echo got it; exit 3' INT TERM HUP QUIT; echo ready; read x`)
		if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(stdout)
		if status := <-done; err != nil || status != 3 || string(said) != "got it\n" {
			t.Errorf("%v: status %d, %q, %v", s, status, said, err)
		}
	}
}

// Much goes through both ways, byte by byte as it was, and an end of the input is one.
func TestExecCopiesAll(t *testing.T) {
	d, env := newDouble(t)
	d.sandboxes["web"] = &ringfencev1.Sandbox{Name: "web"}
	stdin, stdout, done := execPiped(t, env, "sandbox", "exec", "web", "cat")
	sent := bytes.Repeat([]byte("0123456789\x00\xff\n"), 200_000)
	go func() {
		_, _ = stdin.Write(sent)
		stdin.Close()
	}()
	got, err := io.ReadAll(stdout)
	if status := <-done; err != nil || status != 0 || !bytes.Equal(got, sent) {
		t.Errorf("status %d, %d bytes of %d, %v", status, len(got), len(sent), err)
	}
}

// Where nobody reads what the command writes, it ends as if it had written itself.
func TestExecBrokenPipe(t *testing.T) {
	d, env := newDouble(t)
	d.sandboxes["web"] = &ringfencev1.Sandbox{Name: "web"}
	_, stdout, done := execPiped(t, env, "sandbox", "exec", "web", "yes")
	if _, err := io.ReadFull(stdout, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	stdout.Close()
	if status := <-done; status != 128+int(syscall.SIGPIPE) {
		t.Errorf("status %d", status)
	}
}
