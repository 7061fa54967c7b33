package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// pane is what a person has before them: a real terminal, by tmux, with a shell in
// which they type.
type pane struct {
	t      *testing.T
	f      *fixture
	socket string
}

const outerPrompt = "outer$ "

// newPane opens a terminal of 100 by 40 with a root shell. In it, the command "rf"
// is ringfence run with the fixture's flags.
func newPane(t *testing.T, f *fixture, flags ...string) *pane {
	t.Helper()
	testenv.Require(t, "tmux", "bash")
	p := &pane{t: t, f: f, socket: filepath.Join(t.TempDir(), "tmux")}
	quoted := make([]string, 0, len(f.flags)+len(flags))
	for _, flag := range append(append([]string(nil), f.flags...), flags...) {
		quoted = append(quoted, "'"+flag+"'")
	}
	rc := f.file("outer.rc", fmt.Sprintf("PS1='%s'\nrf() { %s run %s \"$@\"; }\n", outerPrompt, program, strings.Join(quoted, " ")), 0o644)
	server := f.env.Command("tmux", "-D", "-S", p.socket, "-f", "/dev/null")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.tmux("kill-server").Run(); _ = server.Wait() })
	await(t, "tmux starts", func() bool { return p.tmux("start-server").Run() == nil })
	p.do("new-session", "-d", "-x", "100", "-y", "40", "bash", "--noprofile", "--rcfile", rc, "-i")
	p.sees(outerPrompt)
	return p
}

func (p *pane) tmux(args ...string) *exec.Cmd {
	return p.f.env.Command("tmux", append([]string{"-S", p.socket}, args...)...)
}

func (p *pane) do(args ...string) string {
	p.t.Helper()
	out, err := p.tmux(args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// types types text and Enter.
func (p *pane) types(text string) {
	p.t.Helper()
	p.do("send-keys", "-l", text)
	p.do("send-keys", "Enter")
}

// presses presses a key, such as C-c.
func (p *pane) presses(key string) {
	p.t.Helper()
	p.do("send-keys", key)
}

// screen returns what is seen, with long lines put together again.
func (p *pane) screen() string { return p.do("capture-pane", "-p", "-J", "-S", "-200") }

// sees waits for text on the screen.
func (p *pane) sees(text string) {
	p.t.Helper()
	p.matches(regexp.QuoteMeta(text))
}

// matches waits for a match on the screen, and returns its first group.
func (p *pane) matches(pattern string) string {
	p.t.Helper()
	expr := regexp.MustCompile("(?m)" + pattern)
	deadline := time.Now().Add(10 * time.Second)
	for {
		screen := p.screen()
		if found := expr.FindStringSubmatch(screen); found != nil {
			return found[len(found)-1]
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("no %q on the screen:\n%s", pattern, screen)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// clear empties the screen, so that what is seen next is new.
func (p *pane) clear() {
	p.t.Helper()
	p.do("send-keys", "-R")
	p.do("clear-history")
}

// settings are the terminal's, as the outer shell sees them: bash changes them while
// it reads a line, so a program must ask.
func (p *pane) settings() string {
	p.t.Helper()
	p.clear()
	p.types("stty -g | sed s/^/is=/")
	return p.matches(`^is=([0-9a-f:]+)$`)
}

// ringfence returns the process of the run in the pane.
func (p *pane) ringfence() int {
	p.t.Helper()
	pid := 0
	await(p.t, "ringfence runs", func() bool {
		out, _ := exec.Command("pgrep", "-f", "^"+program+" run").Output()
		pid, _ = strconv.Atoi(strings.TrimSpace(string(out)))
		return pid != 0
	})
	return pid
}

const innerShell = "--env PS1='inner> ' -- bash --noprofile --norc -i"

func TestInteractiveShell(t *testing.T) {
	f := newFixture(t)
	testenv.Require(t, "/usr/bin/python3")
	p := newPane(t, f, "--policy", f.allow([]int{443}, realPath(t, "curl")))
	before := p.settings()
	p.types("rf " + innerShell)
	p.sees("inner> ")

	t.Run("it is a terminal of its own", func(t *testing.T) {
		p := p.in(t)
		p.clear()
		p.types("tty; echo to the terminal >/dev/tty; ls /dev/pts")
		p.sees("/dev/pts/0")
		p.sees("\nto the terminal")
		p.matches(`^0 +ptmx$`) // no other one is there
	})
	t.Run("its size is the window's", func(t *testing.T) {
		p := p.in(t)
		p.clear()
		p.types("stty size")
		p.matches(`^40 100$`)
		p.types("trap 'stty size' WINCH")
		p.do("resize-window", "-x", "80", "-y", "24")
		p.matches(`(^|> )24 80$`) // said by the trap: the signal came
		p.do("resize-window", "-x", "100", "-y", "40")
		p.types("trap - WINCH")
	})
	t.Run("job control", func(t *testing.T) {
		p := p.in(t)
		p.clear()
		p.types("sleep 100")
		p.foreground("sleep")
		p.presses("C-z")
		p.matches(`^\[1\]\+ +Stopped +sleep 100$`)
		p.types("bg")
		p.matches(`^\[1\]\+ sleep 100 &$`)
		p.types("jobs")
		p.matches(`^\[1\]\+ +Running +sleep 100 &$`)
		p.types("fg")
		p.foreground("sleep")
		p.presses("C-c")
		p.types("echo interrupted: $?")
		p.matches(`^interrupted: 130$`)
	})
	t.Run("nothing can be typed into it", func(t *testing.T) {
		p := p.in(t)
		script := f.file("sti.py", `
import fcntl
for name, request, arg in ("TIOCSTI", 0x5412, b"x"), ("TIOCLINUX", 0x541C, b"\x03"):
    try:
        fcntl.ioctl(0, request, arg)
        print(name, "works")
    except OSError as e:
        print(name, "fails with", e.errno)
`, 0o644)
		p.clear()
		p.types("/usr/bin/python3 " + script)
		p.matches(`^TIOCSTI fails with 1$`)
		p.matches(`^TIOCLINUX fails with 1$`)
	})

	// A connection, so that there is something to sum up.
	p.clear()
	p.types("curl -sS -o /dev/null -w '%{http_code}\\n' https://" + allowedName + "/; curl -sS https://" + deniedName + "/")
	p.matches(`^200$`)
	p.types("exit 3")
	p.sees(outerPrompt)
	p.matches(`^VERDICT +COUNT +PROGRAM +TARGET +REASON$`)
	p.matches(`^allow +1 +\S*/curl +` + regexp.QuoteMeta(allowedName) + `:443`)
	p.matches(`^deny +[0-9]+ +\S*/curl +` + regexp.QuoteMeta(deniedName))
	p.matches(`^ +hint: \S+`)
	p.types("echo status: $?")
	p.matches(`^status: 3$`)
	if after := p.settings(); after != before {
		t.Errorf("the terminal is %s, was %s", after, before)
	}
	noneAbandoned(t)
}

// in returns the pane for a subtest.
func (p *pane) in(t *testing.T) *pane { return &pane{t: t, f: p.f, socket: p.socket} }

// foreground waits until a program of that name is in the foreground of a
// terminal.
func (p *pane) foreground(name string) {
	p.t.Helper()
	await(p.t, name+" runs in the foreground", func() bool {
		out, _ := exec.Command("ps", "-C", name, "-o", "stat=").Output()
		return strings.Contains(string(out), "+")
	})
}

// However the command ends, the terminal is as it was.
func TestTerminalIsRestored(t *testing.T) {
	f := newFixture(t)
	p := newPane(t, f, "--policy", f.allow([]int{443}, "/bin/none"))
	before := p.settings()
	tests := []struct {
		name   string
		run    string
		do     func(*pane)
		status int
	}{
		{"the command kills itself", "rf -- sh -c 'stty raw -echo; kill -9 $$'", func(*pane) {}, 137},
		{"Ctrl-C", "rf -- sh -c 'echo here; exec sleep 100'", func(p *pane) { p.presses("C-c") }, 130},
		{"Ctrl-backslash", "rf -- sh -c 'echo here; exec sleep 100'", func(p *pane) { p.presses(`C-\`) }, 131},
		{"ringfence is told to end", "rf -- sh -c 'echo here; exec sleep 100'", func(p *pane) { p.kill(syscall.SIGTERM) }, 143},
		{"the command is not found", "rf -- no-such-program", func(*pane) {}, 127},
		{"it leaves a process that holds the terminal", "rf -- sh -c 'trap \"\" HUP; sleep 100 & exit 4'", func(*pane) {}, 4},
		{"a last line without an end", "rf -- sh -c 'printf last; exit 5'", func(p *pane) { p.sees("last") }, 5},
		{"ringfence is stopped and goes on", "rf -- sh -c 'echo here; read line; echo got $line; exit 6'", func(p *pane) {
			p.kill(syscall.SIGSTOP)
			p.sees("Stopped")
			p.sees(outerPrompt)
			p.types("fg")
			p.sees("rf -- sh -c") // as bash says what it continues
			time.Sleep(50 * time.Millisecond)
			p.types("typed")
			p.sees("got typed")
		}, 6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := p.in(t)
			p.clear()
			p.types(tt.run + "; echo status: $?")
			if strings.Contains(tt.run, "here") {
				p.matches(`^here$`)
			}
			tt.do(p)
			if tt.name == "ringfence is stopped and goes on" {
				p.types("echo status: $?")
			}
			p.matches(fmt.Sprintf(`status: %d$`, tt.status))
			if after := p.settings(); after != before {
				t.Errorf("the terminal is %s, was %s", after, before)
			}
		})
	}
}

func (p *pane) kill(sig syscall.Signal) {
	p.t.Helper()
	if err := syscall.Kill(p.ringfence(), sig); err != nil {
		p.t.Fatal(err)
	}
}

// In the background ringfence does not take the terminal, and does not wait for it.
func TestRunInTheBackground(t *testing.T) {
	f := newFixture(t)
	p := newPane(t, f, "--policy", f.allow([]int{443}, "/bin/none"))
	before := p.settings()

	p.clear()
	p.types("rf -- sh -c 'sleep 0.5; echo from the background; exit 7' &")
	p.types("echo still $((40 + 2)) mine")
	p.sees("still 42 mine")
	p.matches(`(^|\$ )from the background$`)
	p.types("wait $!; echo status: $?")
	p.matches(`^status: 7$`)

	// Brought to the foreground, it takes what is typed.
	p.clear()
	p.types("rf " + innerShell + " &")
	p.ringfence()
	p.types("echo typed to $((40 + 3)) outside")
	p.sees("typed to 43 outside")
	time.Sleep(500 * time.Millisecond)
	p.types("fg")
	p.sees("inner> ")
	p.types("echo in the sandbox $RINGFENCE_SANDBOX")
	p.matches(`^in the sandbox sandbox$`)
	p.types("exit 8")
	p.sees("exit")
	p.types("echo status: $?")
	p.matches(`^status: 8$`)
	if after := p.settings(); after != before {
		t.Errorf("the terminal is %s, was %s", after, before)
	}
}
