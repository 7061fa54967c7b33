package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

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

// With a terminal, SIGHUP says that it is gone, and ends the run.
func TestTerminalThatIsGone(t *testing.T) {
	f := newFixture(t)
	p := newPane(t, f, "--policy", f.allow([]int{443}, "/bin/none"))
	p.types("rf -- sh -c 'echo here; exec sleep 100'")
	p.matches(`^here$`)
	pid := p.ringfence()
	_ = p.tmux("kill-server").Run()
	// Who inherits it may not wait for it: a zombie has ended.
	await(t, "the run ends", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	noneAbandoned(t)
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
