package e2e

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/sshd"
	"github.com/ringfence/ringfence/internal/testenv"
)

// withKey returns the client with a key of the sandbox's own instead of a certificate.
func (c *sshClient) withKey(t *testing.T, key *sshd.Key) *sshClient {
	t.Helper()
	dir := t.TempDir()
	id, config := filepath.Join(dir, "own"), filepath.Join(dir, "config")
	if err := os.WriteFile(id, key.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(readFile(t, c.config))) {
		switch {
		case strings.Contains(line, "CertificateFile "):
			continue
		case strings.Contains(line, "IdentityFile "):
			line = "  IdentityFile " + id + "\n"
		}
		lines = append(lines, line)
	}
	if err := os.WriteFile(config, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return &sshClient{s: c.s, sandbox: c.sandbox, config: config}
}

// A restart ends sessions, and nothing else that came in by SSH: what has a session of
// its own lives on, and the ways in are the same ones.
func TestServiceSSHOverRestarts(t *testing.T) {
	testenv.Require(t, "ssh", "tmux")
	f := newFixture(t)
	s := f.newService()
	key, err := sshd.GenerateKey("own")
	if err != nil {
		t.Fatal(err)
	}
	s.create("one", "deny-all", func(spec *pb.SandboxSpec) { spec.SshAuthorizedKeys = []string{key.Public().String()} })
	certificate := s.sshTo(t, "one")
	clients := map[string]*sshClient{"certificate": certificate, "key": certificate.withKey(t, key)}
	s.detach("one", "echo $$ >/tmp/detached; exec sleep 1000")
	if out, status := certificate.ssh(t, "tmux new-session -d -s work 'sleep 1000' && tmux display-message -p -t work '#{pid}' >/tmp/tmux.pid"); status != 0 {
		t.Fatalf("tmux: status %d, %s", status, out)
	}
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(how.String(), func(t *testing.T) {
			session := certificate.command("ssh", "sandbox", "echo $$; exec sleep 1000")
			stdout, err := session.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := session.Start(); err != nil {
				t.Fatal(err)
			}
			pid, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatalf("%v\n%s", err, s.log)
			}
			_ = s.stop(how)
			begin := time.Now()
			if err := session.Wait(); err == nil {
				t.Error("the session ended well")
			}
			t.Logf("the session ended %v after the agent", time.Since(begin).Round(time.Millisecond))
			s.start()
			for name, c := range clients {
				script := `kill -0 $(cat /tmp/detached) && kill -0 $(cat /tmp/tmux.pid) && tmux list-sessions -F '#{session_name} #{pid}'`
				if out, status := c.ssh(t, script); status != 0 || !strings.HasPrefix(out, "work ") {
					t.Errorf("by %s: status %d, %q", name, status, out)
				}
			}
			await(t, "what the session ran ends", func() bool {
				reap(t)
				_, status := certificate.ssh(t, "kill -0 "+strings.TrimSpace(pid)+" 2>/dev/null")
				return status != 0
			})
			attach := certificate.command("ssh", "-tt", "sandbox", `TERM=xterm tmux attach -t work \; detach-client`)
			attach.Stdin = strings.NewReader("")
			out, err := attach.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "detached (from session work)") {
				t.Errorf("attach: %v, %q", err, out)
			}
		})
	}
	s.whole(t)
}
