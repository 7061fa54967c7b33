package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
	"github.com/ringfence/ringfence/internal/tty"
)

// started is a command on pipes, of which a line was read: it runs.
func started(t *testing.T, n *Namespaces, c Command) (*Process, *Pipes, *bufio.Reader) {
	t.Helper()
	pipes, err := PipeStdio()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pipes.Close)
	c.Stdio = pipes.Stdio
	p, err := n.Exec(t.Context(), c)
	pipes.Started()
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(pipes.Stdout)
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return p, pipes, out
}

// awaitEnd waits for a command for a bounded time.
func awaitEnd(t *testing.T, p *Process) Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	status, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// Both directions, both ends of file, and stderr apart.
func TestPipes(t *testing.T) {
	n := start(t)
	p, pipes, out := started(t, n, command("sh", "-c", "echo ready; cat; echo apart >&2; exit 5"))
	payload := strings.Repeat("0123456789abcdef", 1<<16)
	go func() {
		_, _ = io.WriteString(pipes.Stdin, payload)
		_ = pipes.Stdin.Close()
	}()
	got, err := io.ReadAll(out)
	if err != nil || string(got) != payload {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if text, err := io.ReadAll(pipes.Stderr); err != nil || string(text) != "apart\n" {
		t.Errorf("stderr %q, %v", text, err)
	}
	if status := awaitEnd(t, p); status.Code != 5 {
		t.Errorf("%+v", status)
	}
}

// A command that goes on writing is told that nobody reads.
func TestClosedPipeEndsTheWriter(t *testing.T) {
	n := start(t)
	p, pipes, _ := started(t, n, command("sh", "-c", "echo ready; exec yes"))
	if err := pipes.Stdout.Close(); err != nil {
		t.Fatal(err)
	}
	if status := awaitEnd(t, p); status.Signal != syscall.SIGPIPE {
		t.Errorf("%+v", status)
	}
}

// What a command leaves in the background holds its output, and not the reader.
func TestStopReading(t *testing.T) {
	n := start(t)
	p, pipes, out := started(t, n, command("sh", "-c", "echo ready; sleep 1000 & echo last"))
	awaitEnd(t, p)
	begun := time.Now()
	pipes.StopReading()
	text, err := io.ReadAll(out)
	if string(text) != "last\n" || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v", text, err)
	}
	c := command("sh", "-c", "trap '' HUP; echo last; sleep 1000 &")
	c.Terminal = [3]bool{true, true, true}
	if p, err = n.Exec(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	defer p.Terminal.Close()
	awaitEnd(t, p)
	p.StopReading()
	text, err = io.ReadAll(p.Terminal)
	if string(text) != "last\r\n" || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("terminal: %q, %v", text, err)
	}
	if took := time.Since(begun); took < flushTimeout || took > 4*flushTimeout {
		t.Errorf("it took %v", took)
	}
}

func TestResize(t *testing.T) {
	n := start(t)
	c := command("sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done")
	c.Terminal = [3]bool{true, true, true}
	c.Size = tty.Size{Rows: 1, Cols: 2}
	p, err := n.Exec(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Terminal.Close()
	out := bufio.NewReader(p.Terminal)
	if line, err := out.ReadString('\n'); err != nil || line != "ready\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := p.Resize(tty.Size{Rows: 44, Cols: 155}); err != nil {
		t.Fatal(err)
	}
	if line, err := out.ReadString('\n'); err != nil || line != "44 155\r\n" {
		t.Errorf("%q, %v", line, err)
	}
	awaitEnd(t, p)
	without, _, _ := started(t, n, command("sh", "-c", "echo ready"))
	if err := without.Resize(tty.Size{}); !errors.Is(err, tty.ErrNotTerminal) {
		t.Errorf("without a terminal: %v", err)
	}
}

// alive says which of the processes that a script named by their marks still run.
func alive(t *testing.T, n *Namespaces) string {
	t.Helper()
	r := runIn(t, n, command("sh", "-c", `for f in /proc/[0-9]*/environ; do tr '\0' '\n' < $f | sed -n 's/^MARK=//p'; done 2>/dev/null | sort -u | tr '\n' ' '`))
	return strings.TrimSpace(r.out)
}

func TestHangUp(t *testing.T) {
	testenv.Require(t, "nohup", "setsid") // without them the script would wait for ever
	const (
		hup    = "MARK=hup sleep 1000 & "
		nohup  = "MARK=nohup nohup sleep 1000 >/dev/null 2>&1 & until grep -q '^SigIgn:.*[13579bdf]$' /proc/$!/status; do sleep 0.01; done; "
		setsid = "MARK=setsid setsid sleep 1000 >/dev/null 2>&1 & until [ $(cut -d' ' -f6 /proc/$!/stat) = $! ]; do sleep 0.01; done; "
		ready  = "echo ready; "
	)
	for _, tt := range []struct {
		name, script string
		signal       syscall.Signal
		left         string
	}{
		{"obeys", hup + nohup + setsid + ready + "exec sleep 1000", syscall.SIGHUP, "nohup setsid"},
		{"is stopped", hup + setsid + ready + "kill -STOP $$; sleep 1000", syscall.SIGHUP, "setsid"},
		{"does not listen", "trap '' HUP; " + hup + setsid + ready + "while :; do sleep 1; done", syscall.SIGKILL, "setsid"},
		{"has a job in front", "set -m; MARK=job sh -c 'echo ready; exec sleep 1000'", syscall.SIGHUP, ""},
	} {
		for _, terminal := range []bool{false, true} {
			if !terminal && tt.name == "has a job in front" {
				continue // there is no front without one
			}
			t.Run(fmt.Sprint(tt.name, " terminal ", terminal), func(t *testing.T) {
				n := start(t)
				c := command("sh", "-c", tt.script)
				var p *Process
				if terminal {
					c.Terminal = [3]bool{true, true, true}
					var err error
					if p, err = n.Exec(t.Context(), c); err != nil {
						t.Fatal(err)
					}
					if line, err := bufio.NewReader(p.Terminal).ReadString('\n'); err != nil || line != "ready\r\n" {
						t.Fatalf("%q, %v", line, err)
					}
				} else {
					p, _, _ = started(t, n, c)
				}
				p.HangUp(200 * time.Millisecond)
				if status := awaitEnd(t, p); status.Signal != tt.signal {
					t.Errorf("%+v", status)
				}
				if left := alive(t, n); left != tt.left {
					t.Errorf("left: %q, want %q", left, tt.left)
				}
				p.HangUp(time.Hour) // of one that has ended does nothing
			})
		}
	}
}

// probeParentDeath prints the signal that this process gets at its parent's end.
func probeParentDeath([]string) int {
	signal := int32(-1)
	if err := unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0, 0, 0); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(signal)
	return 0
}

// A detached command gets no signal at the agent's end; every other does.
func TestDetached(t *testing.T) {
	dir := ownedDir(t)
	program := probeDir(t)
	n := start(t, visible(dir, program))
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, detached := range []bool{false, true} {
		out, err := os.Create(dir + "/out")
		if err != nil {
			t.Fatal(err)
		}
		c := command(program+"/probe", "probe-parent-death")
		c.Detached, c.Stdio = detached, [3]*os.File{null, out, out}
		p, err := n.Exec(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if status := awaitEnd(t, p); status.Code != 0 {
			t.Errorf("%+v", status)
		}
		out.Close()
		want := strconv.Itoa(int(unix.SIGKILL))
		if detached {
			want = "0"
		}
		if got := strings.TrimSpace(readFile(t, dir+"/out")); got != want {
			t.Errorf("detached %v: signal %q, want %s", detached, got, want)
		}
	}
	r, w := pipe(t)
	bad := command("true")
	bad.Detached = true
	for i, file := range []*os.File{r, w, w} {
		bad.Stdio = [3]*os.File{null, null, null}
		bad.Stdio[i] = file
		if _, err := n.Exec(t.Context(), bad); !errors.Is(err, ErrBadCommand) {
			t.Errorf("descriptor %d is a pipe of the agent's: %v", i, err)
		}
	}
	bad.Stdio, bad.Terminal = [3]*os.File{null, null, null}, [3]bool{true}
	if _, err := n.Exec(t.Context(), bad); !errors.Is(err, ErrBadCommand) {
		t.Errorf("with a terminal: %v", err)
	}
}
