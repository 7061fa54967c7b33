package sshd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/tty"
)

func TestExec(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	big := make([]byte, 24<<20)
	_, _ = rand.Read(big)
	bigFile := f.write("big", string(big))
	t.Run("identity", func(t *testing.T) {
		r := f.ssh("alpha@node", "id -u; pwd; echo $HOME $SHELL $RINGFENCE_SANDBOX $https_proxy")
		want := fmt.Sprintf("%d\n%s\n%s /bin/bash alpha http://localhost:15128\n", testUID, f.home, f.home)
		if r.out != want || r.code != 0 || r.err != "" {
			t.Errorf("%+v, want %q", r, want)
		}
	})
	t.Run("exit status", func(t *testing.T) {
		for _, code := range []int{0, 1, 42, 254} {
			if r := f.ssh("alpha@node", fmt.Sprintf("exit %d", code)); r.code != code {
				t.Errorf("exit %d: %+v", code, r)
			}
		}
	})
	t.Run("stderr apart", func(t *testing.T) {
		r := f.ssh("alpha@node", "echo out; echo err >&2; exit 3")
		if r.out != "out\n" || r.err != "err\n" || r.code != 3 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("half-close", func(t *testing.T) {
		cmd := f.command("ssh", "alpha@node", "sha256sum; echo after")
		in, err := os.Open(bigFile)
		must(t, err)
		defer in.Close()
		cmd.Stdin = in
		r := f.run(cmd)
		if want := fmt.Sprintf("%x  -\nafter\n", sha256.Sum256(big)); r.out != want || r.code != 0 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("both ways at once", func(t *testing.T) {
		cmd := f.command("ssh", "alpha@node", "tee /dev/stderr")
		cmd.Stdin = bytes.NewReader(big)
		r := f.run(cmd)
		if r.out != string(big) || r.err != string(big) || r.code != 0 {
			t.Errorf("%d and %d bytes, status %d", len(r.out), len(r.err), r.code)
		}
	})
	t.Run("input that nobody reads", func(t *testing.T) {
		cmd := f.command("ssh", "alpha@node", "exec <&-; echo closed; cat /dev/null; exit 5")
		cmd.Stdin = bytes.NewReader(big)
		if r := f.run(cmd); r.out != "closed\n" || r.code != 5 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("left in the background", func(t *testing.T) {
		r := f.ssh("alpha@node", "(sleep 0.5; echo late) & echo early")
		if r.out != "early\nlate\n" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("not found", func(t *testing.T) {
		if r := f.ssh("alpha@node", "no-such-program"); r.code != 127 || !strings.Contains(r.err, "not found") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("hostile bytes", func(t *testing.T) {
		if r := f.ssh("alpha@node", "printf '%s' \"\xff\x1b[31m\"\n\techo x"); r.out != "\xff\x1b[31mx\n" {
			t.Errorf("%+v", r)
		}
	})
}

func TestShell(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	t.Run("piped", func(t *testing.T) {
		cmd := f.command("ssh", "-T", "alpha@node")
		cmd.Stdin = strings.NewReader("shopt -q login_shell && echo login; tty; exit 7\n")
		if r := f.run(cmd); r.out != "login\nnot a tty\n" || r.code != 7 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		cmd := f.command("ssh", "-tt", "alpha@node", "tty; echo $TERM; seq 100000 | tail -c 600000; exit 9")
		cmd.Env = append(cmd.Env, "TERM=xterm-256color")
		r := f.run(cmd)
		if !strings.HasPrefix(r.out, "/dev/pts/") || !strings.Contains(r.out, "xterm-256color\r\n") ||
			!strings.HasSuffix(r.out, "99999\r\n100000\r\n") || r.code != 9 {
			t.Errorf("%d bytes, %q, status %d", len(r.out), r.err, r.code)
		}
	})
}

// Two terminals on one connection get their own sizes, also at the same time.
func TestResize(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	client := f.mustDial("alpha")
	type pane struct {
		*ssh.Session
		out *bufio.Reader
		in  io.Writer
		was string
	}
	var panes []pane
	for i := range 3 {
		s, err := client.NewSession()
		must(t, err)
		must(t, s.RequestPty("xterm", 10+i, 40+i, ssh.TerminalModes{ssh.ECHO: 0}))
		in, err := s.StdinPipe()
		must(t, err)
		out, err := s.StdoutPipe()
		must(t, err)
		must(t, s.Start("while read -r x; do stty size; done"))
		panes = append(panes, pane{s, bufio.NewReader(out), in, fmt.Sprint(10+i, 40+i)})
	}
	for round := range 5 {
		want := make([]string, len(panes))
		for i := range panes {
			want[i] = fmt.Sprint(20+10*round+i, 80+10*round+i)
			must(t, panes[i].WindowChange(20+10*round+i, 80+10*round+i))
		}
		for i := range panes {
			// A line may overtake the size that went before it: they are asked for until
			// it is the new one. Never may it be another's.
			for got := ""; got != want[i]; {
				_, err := io.WriteString(panes[i].in, "\n")
				must(t, err)
				line, err := panes[i].out.ReadString('\n')
				must(t, err)
				if got = strings.TrimSpace(line); got != want[i] && got != panes[i].was {
					t.Errorf("terminal %d has %s, want %s", i, got, want[i])
				}
			}
			panes[i].was = want[i]
		}
	}
}

// By the system's ssh, with several terminals on one connection.
func TestControlMaster(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	options := []string{"-o", "ControlPath=" + filepath.Join(f.dir, "mux"), "-o", "ControlMaster=auto", "-o", "ControlPersist=yes"}
	if r := f.ssh(append(options, "alpha@node", "echo first")...); r.out != "first\n" {
		t.Fatalf("%+v", r)
	}
	defer f.ssh(append(options, "-O", "exit", "alpha@node")...)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			master, slave, err := tty.Open()
			must(t, err)
			defer master.Close()
			must(t, tty.SetSize(slave, tty.Size{Rows: uint16(20 + i), Cols: uint16(60 + i)}))
			cmd := f.command("ssh", append(options, "-t", "alpha@node", "while read x; do stty size; done")...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			must(t, cmd.Start())
			slave.Close()
			screen := bufio.NewReader(master)
			// The size is asked for until it is the new one; never may it be another's.
			was, want := "", fmt.Sprint(20+i, 60+i)
			for change := range 3 {
				for got := ""; got != want; {
					_, _ = master.WriteString("\n")
					line, err := screen.ReadString('\n')
					if err != nil {
						t.Errorf("terminal %d: %v", i, err)
						return
					}
					if got = strings.TrimSpace(line); got != "" && got != was && got != want {
						t.Errorf("terminal %d has %q, want %q", i, got, want)
					}
					time.Sleep(5 * time.Millisecond) // to ask is all there is to do
				}
				was, want = want, fmt.Sprint(30+10*change+i, 90+i)
				must(t, tty.SetSize(master, tty.Size{Rows: uint16(30 + 10*change + i), Cols: uint16(90 + i)}))
			}
			_, _ = master.WriteString("\x04")
			_, _ = io.Copy(io.Discard, screen)
			_ = cmd.Wait()
		})
	}
	all.Wait()
	if n := f.server.Stats().Logins; n != 1 {
		t.Errorf("%d logins", n)
	}
}

func TestSignals(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	client := f.mustDial("alpha")
	for name, number := range map[ssh.Signal]string{
		ssh.SIGTERM: "15", ssh.SIGINT: "2", ssh.SIGHUP: "1", ssh.SIGUSR1: "10", ssh.SIGUSR2: "12", ssh.SIGQUIT: "3",
	} {
		t.Run("heeded "+string(name), func(t *testing.T) {
			s, err := client.NewSession()
			must(t, err)
			out, err := s.StdoutPipe()
			must(t, err)
			must(t, s.Start("trap 'echo got; exit 4' "+number+"; echo ready; while :; do sleep 0.02; done"))
			lines := bufio.NewReader(out)
			first, _ := lines.ReadString('\n')
			must(t, s.Signal(name))
			second, _ := lines.ReadString('\n')
			var exit *ssh.ExitError
			if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 4 || first != "ready\n" || second != "got\n" {
				t.Errorf("%q, %q, %v", first, second, err)
			}
		})
	}
	for _, name := range []ssh.Signal{ssh.SIGKILL, ssh.SIGTERM, ssh.SIGSEGV, ssh.SIGPIPE} {
		t.Run("ended by "+string(name), func(t *testing.T) {
			s, err := client.NewSession()
			must(t, err)
			var exit *ssh.ExitError
			if err := s.Run("kill -" + string(name) + " $$"); !errors.As(err, &exit) || exit.Signal() != string(name) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("unknown", func(t *testing.T) {
		s, err := client.NewSession()
		must(t, err)
		defer s.Close()
		must(t, s.Start("sleep 100"))
		for _, name := range []string{"STOP", "9", "", "KILL "} {
			if ok, err := s.SendRequest("signal", true, ssh.Marshal(struct{ S string }{name})); ok || err != nil {
				t.Errorf("%q: %v, %v", name, ok, err)
			}
		}
	})
}

// A client may set what is on the list, and the rest is refused without an error.
func TestVariables(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	allowed := map[string]string{
		"LANG": "C.UTF-8", "LC_TIME": "de_DE", "COLORTERM": "truecolor", "GIT_PROTOCOL": "version=2",
		"GIT_AUTHOR_NAME": "A U Thor", "GIT_COMMITTER_EMAIL": "a@example.com",
	}
	refused := []string{
		"LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "PATH", "HOME", "SHELL", "PYTHONPATH", "NODE_OPTIONS", "GIT_SSH_COMMAND",
		"PROMPT_COMMAND", "IFS", "https_proxy", "RINGFENCE_SANDBOX", "LC_", "LC_X=Y", "lc_time", "GIT_AUTHOR_A\n", "", "LANG\x00",
		"BASH_FUNC_x%%", "GIT_AUTHOR_", "SSL_CERT_FILE",
	}
	client := f.mustDial("alpha")
	s, err := client.NewSession()
	must(t, err)
	for name, value := range allowed {
		must(t, s.Setenv(name, value))
	}
	for _, name := range refused {
		if err := s.Setenv(name, "evil"); err == nil {
			t.Errorf("%q can be set", name)
		}
	}
	for _, value := range []string{"a\nb", "a\x00b", "a\rb", strings.Repeat("x", maxVariableValue+1)} {
		if err := s.Setenv("LANG", value); err == nil {
			t.Errorf("LANG can be %.10q", value)
		}
	}
	out, err := s.Output("env -0")
	must(t, err)
	have := map[string]string{}
	for _, kv := range strings.Split(string(out), "\x00") {
		name, value, _ := strings.Cut(kv, "=")
		have[name] = value
		if value == "evil" {
			t.Errorf("%s is in", name)
		}
	}
	for name, value := range allowed {
		if have[name] != value {
			t.Errorf("%s is %q", name, have[name])
		}
	}
	// The system's ssh sends all it is told to, and works.
	cmd := f.command("ssh", "-o", "SendEnv=*", "alpha@node", "echo $LANG $EVIL")
	cmd.Env = append(cmd.Env, "LANG=C.UTF-8", "EVIL=1", "LD_PRELOAD=")
	if r := f.run(cmd); r.out != "C.UTF-8\n" || r.code != 0 {
		t.Errorf("%+v", r)
	}
	s, err = client.NewSession()
	must(t, err)
	for i := range maxVariables {
		must(t, s.Setenv("LC_"+strings.Repeat("X", i+1), "x"))
	}
	if s.Setenv("LC_MORE", "x") == nil {
		t.Error("there may be more variables than may be")
	}
	s.Close()
}

// A channel runs one thing.
func TestOneCommandForAChannel(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	s, err := f.mustDial("alpha").NewSession()
	must(t, err)
	for _, name := range []string{"x11-req", "auth-agent-req@openssh.com", "subsystem", "break", "unheard-of@example.com"} {
		payload := ssh.Marshal(struct{ S string }{"netconf"})
		if ok, err := s.SendRequest(name, true, payload); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	must(t, s.Start("cat"))
	for _, name := range []string{"exec", "shell", "subsystem", "env", "pty-req"} {
		if ok, err := s.SendRequest(name, true, ssh.Marshal(struct{ S string }{"sftp"})); ok || err != nil {
			t.Errorf("a second %s: %v, %v", name, ok, err)
		}
	}
	s.Close()
}

// What a channel started ends with it: by the hang-up, or killed where it does not heed
// that. What has left its session lives on.
func TestHangUp(t *testing.T) {
	// A shell that heeds it must have the time to pass it on, on a busy machine too.
	f := newFixture(t, Limits{Linger: 2 * time.Second})
	f.sandbox("alpha")
	for _, test := range []struct {
		name, command string
		terminal      bool
		lives         bool
	}{
		{"heeds it", "echo pid=$$; exec sleep 1000", false, false},
		{"with a terminal", "echo pid=$$; exec sleep 1000", true, false},
		{"in the background of a shell", "exec bash --norc -i", true, false},
		{"ignores it", "trap '' HUP PIPE; echo pid=$$; while :; do sleep 0.1; done", false, false},
		{"ignores it, with a terminal", "trap '' HUP PIPE; echo pid=$$; while :; do sleep 0.1; done", true, false},
		{"its own session", "setsid sh -c 'echo pid=$$; exec sleep 1000 </dev/null >/dev/null 2>&1' & wait", false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := f.mustDial("alpha")
			s, err := client.NewSession()
			must(t, err)
			if test.terminal {
				must(t, s.RequestPty("xterm", 24, 80, ssh.TerminalModes{ssh.ECHO: 0}))
			}
			out, err := s.StdoutPipe()
			must(t, err)
			s.Stdin = strings.NewReader("sh -c 'echo pid=$$; exec sleep 1000' &\n") // for the shell
			must(t, s.Start(test.command))
			// A prompt may stand before it, and what was typed has no digits there.
			pid, said := "", regexp.MustCompile(`pid=(\d+)`)
			for lines := bufio.NewReader(out); pid == ""; {
				line, err := lines.ReadString('\n')
				must(t, err)
				if found := said.FindStringSubmatch(line); found != nil {
					pid = found[1]
				}
			}
			client.Close()
			until(t, "the end of the connection", func() bool { return f.server.Stats().Conns == 0 })
			if test.lives {
				if r := f.ssh("alpha@node", "kill -0 "+pid+" && kill -9 "+pid); r.code != 0 {
					t.Errorf("it is gone: %+v", r)
				}
			} else {
				until(t, "its end", func() bool { return f.ssh("alpha@node", "kill -0 "+pid).code != 0 })
			}
			until(t, "the end of the connection", func() bool { return f.server.Stats().Conns == 0 })
		})
	}
}

func TestDeletedSandbox(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	f.sandbox("beta")
	gone, stays := f.mustDial("alpha"), f.mustDial("beta")
	s, err := gone.NewSession()
	must(t, err)
	must(t, s.Start("sleep 1000"))
	f.delete("alpha")
	if gone.Wait(); s.Wait() == nil {
		t.Error("the session ended well")
	}
	other, err := stays.NewSession()
	must(t, err)
	if out, err := other.Output("echo in"); string(out) != "in\n" {
		t.Errorf("another sandbox: %q, %v", out, err)
	}
	if r := f.ssh("alpha@node", "echo in"); r.code != 255 || !strings.Contains(r.err, "Permission denied") {
		t.Errorf("%+v", r)
	}
}

func TestShutdown(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	client := f.mustDial("alpha")
	s, err := client.NewSession()
	must(t, err)
	must(t, s.Start("sleep 1000"))
	idle, err := net.Dial("tcp", f.addr.String()) // says nothing
	must(t, err)
	defer idle.Close()
	until(t, "both", func() bool { return f.server.Stats().Conns == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, f.server.Shutdown(ctx))
	if n := f.server.Stats().Conns; n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if _, err := net.Dial("tcp", f.addr.String()); err == nil {
		t.Error("the port is open")
	}
	if r := f.ledger.await(t, flow.ReasonSSHExec, "ended by signal 1,"); r.Command != "sleep 1000" {
		t.Errorf("%+v", r)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	if err := f.server.Serve(t.Context(), l); !errors.Is(err, ErrClosed) {
		t.Errorf("serves again: %v", err)
	}
}

// Fifty people at once, each of whom gets what is theirs.
func TestFiftySessions(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			cmd := f.command("ssh", "alpha@node", fmt.Sprintf("cat; echo %d; exit %d", i, i))
			cmd.Stdin = strings.NewReader(strings.Repeat(fmt.Sprintln("line", i), 1000))
			want := strings.Repeat(fmt.Sprintln("line", i), 1000) + fmt.Sprintln(i)
			if r := f.run(cmd); r.out != want || r.code != i {
				t.Errorf("%d: %d bytes, %q, status %d", i, len(r.out), r.err, r.code)
			}
		})
	}
	all.Wait()
	until(t, "all to be gone", func() bool { return f.server.Stats().Conns == 0 })
	if len(f.server.quotas.bySandbox)+len(f.server.quotas.bySource) != 0 {
		t.Errorf("left: %v, %v", f.server.quotas.bySandbox, f.server.quotas.bySource)
	}
}
