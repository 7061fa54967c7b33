package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/sshd"
)

// sshClient is a configuration of the system's ssh for one sandbox.
type sshClient struct {
	s       *service
	sandbox string
	config  string // file
}

// sshTo returns a client that holds a certificate for a sandbox.
func (s *service) sshTo(t *testing.T, sandbox string) *sshClient {
	t.Helper()
	key, err := sshd.GenerateKey("e2e")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.client.Sandboxes.IssueCertificate(t.Context(), &ringfencev1.IssueCertificateRequest{
		Sandbox: sandbox, PublicKey: key.Public().String(),
	})
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	host, err := sshd.ParsePublicKey(answer.GetHostKeys()[0])
	if err != nil {
		t.Fatal(err)
	}
	id := write("id", string(key.Marshal()))
	write("id-cert.pub", answer.GetCertificate()+"\n")
	known := write("known_hosts", sshd.KnownHosts("sandbox", 0, host)+"\n")
	config := write("config", fmt.Sprintf(`Host sandbox
  HostName 127.0.0.1
  Port 2222
  User %s
  HostKeyAlias sandbox
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  IdentityFile %s
  CertificateFile %s-cert.pub
  IdentitiesOnly yes
  IdentityAgent none
  PreferredAuthentications publickey
  BatchMode yes
  LogLevel ERROR
`, sandbox, known, id, id))
	return &sshClient{s: s, sandbox: sandbox, config: config}
}

// command returns a client program (ssh, scp, sftp, rsync …) that is not started.
func (c *sshClient) command(name string, args ...string) *exec.Cmd {
	switch name {
	case "rsync":
		args = append([]string{"-e", "ssh -F " + c.config}, args...)
	case "git":
	default:
		args = append([]string{"-F", c.config}, args...)
	}
	cmd := c.s.env.Command(name, args...)
	cmd.Env = append(cmd.Env, "GIT_SSH_COMMAND=ssh -F "+c.config)
	return cmd
}

// ssh runs a command line by ssh to its end.
func (c *sshClient) ssh(t *testing.T, line string) (stdout string, status int) {
	t.Helper()
	cmd := c.command("ssh", "sandbox", line)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if status := cmd.ProcessState.ExitCode(); status == 255 {
		t.Errorf("ssh %q: %s\n%s", line, errOut.String(), out.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
