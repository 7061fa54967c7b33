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

func (p *pane) kill(sig syscall.Signal) {
	p.t.Helper()
	if err := syscall.Kill(p.ringfence(), sig); err != nil {
		p.t.Fatal(err)
	}
}
