package e2e

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// What comes in by SSH is in the sandbox's cgroup and network namespace, and its
// connections are decided by the sandbox's policy.
func TestSSHIntoTheFence(t *testing.T) {
	testenv.Require(t, "curl", "ssh", "sftp", "scp", "rsync", "git")
	f := newFixture(t)
	s := f.newService()
	curl := realPath(t, "curl")
	s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, curl)))
	c := s.sshTo(t, "one")

	where := "cat /proc/self/cgroup; readlink /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/pid"
	inside, _, _ := s.exec("one", where)
	outside := strings.Join(strings.Fields(command(t, exec.Command("/bin/sh", "-c", where))), "\n")
	shell := command(t, withInput(c.command("ssh", "sandbox"), where+"\n"))
	run, _ := c.ssh(t, where)
	for kind, got := range map[string]string{"shell": shell, "exec": run} {
		if got != inside {
			t.Errorf("%s is in\n%s, not in\n%s", kind, got, inside)
		}
	}
	for _, line := range strings.Fields(inside) {
		if strings.Contains(outside, line) && strings.Contains(line, "[") {
			t.Errorf("%s is the host's", line)
		}
	}

	open := c.command("ssh", "sandbox", "echo in; cat")
	in, inErr := open.StdinPipe()
	said, outErr := open.StdoutPipe()
	if err := errors.Join(inErr, outErr, open.Start()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(said, make([]byte, len("in\n"))); err != nil {
		t.Fatal(err)
	}
	sb, err := s.client.Sandboxes.GetSandbox(t.Context(), &ringfencev1.GetSandboxRequest{Name: "one"})
	if err != nil || sb.GetStatus().GetSshConnections() != 1 {
		t.Errorf("while one is logged in: %v, %v", sb.GetStatus(), err)
	}
	if err := errors.Join(in.Close(), open.Wait()); err != nil {
		t.Error(err)
	}

	get := func(host string) string {
		return "curl -sS --max-time 20 -o /dev/null -w '%{http_code}' https://" + host + "/"
	}
	if out, status := c.ssh(t, get(allowedName)); status != 0 || out != "200" {
		t.Errorf("declared host: %q, status %d", out, status)
	}
	for _, host := range []string{deniedName, "www.google.com", "google.com", "api.anthropic.com", "anthropic.com"} {
		if out, status := c.ssh(t, get(host)); status == 0 {
			t.Errorf("%s was reached: %q", host, out)
		}
	}
	allowed := 0
	for _, r := range s.records("one") {
		if r.Mode != "ssh" && r.Host == allowedName && r.Verdict == "allow" && r.Binary == curl {
			allowed++
		}
	}
	if allowed == 0 {
		t.Errorf("no record names curl and %s: %+v", allowedName, s.records("one"))
	}
}

// TestSSHTools moves files with what people move files with.
func TestSSHTools(t *testing.T) {
	testenv.Require(t, "ssh", "sftp", "scp", "rsync", "git")
	f := newFixture(t)
	s := f.newService()
	s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, "/usr/bin/curl")))
	c := s.sshTo(t, "one")
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("0123456789abcdef", 1<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	sum := func(path string) string { return "sha256sum < " + path }
	want := command(t, exec.Command("/bin/sh", "-c", sum(big)))
	for name, put := range map[string][]*exec.Cmd{
		"scp":   {c.command("scp", "-q", big, "sandbox:/tmp/scp")},
		"sftp":  {withInput(c.command("sftp", "-b", "-", "sandbox"), "put "+big+" /tmp/sftp\n")},
		"rsync": {c.command("rsync", big, "sandbox:/tmp/rsync")},
	} {
		t.Run(name, func(t *testing.T) {
			for _, cmd := range put {
				command(t, cmd)
			}
			if got, _ := c.ssh(t, sum("/tmp/"+name)); got != want {
				t.Errorf("inside: %s, want %s", got, want)
			}
			back := filepath.Join(dir, name)
			command(t, c.command("scp", "-q", "sandbox:/tmp/"+name, back))
			if got := command(t, exec.Command("/bin/sh", "-c", sum(back))); got != want {
				t.Errorf("back again: %s, want %s", got, want)
			}
		})
	}
	t.Run("git", func(t *testing.T) {
		if _, status := c.ssh(t, "git init -q --bare /tmp/repo.git"); status != 0 {
			t.Fatal("git init")
		}
		work := filepath.Join(dir, "work")
		command(t, exec.Command("git", "init", "-q", "-b", "main", work))
		command(t, exec.Command("git", "-C", work, "-c", "user.name=a", "-c", "user.email=a@b.test", "commit", "-q", "--allow-empty", "-m", "one"))
		command(t, c.command("git", "-C", work, "push", "-q", "sandbox:/tmp/repo.git", "main"))
		clone := filepath.Join(dir, "clone")
		command(t, c.command("git", "clone", "-q", "-b", "main", "sandbox:/tmp/repo.git", clone))
		if got := command(t, exec.Command("git", "-C", clone, "log", "--format=%s")); got != "one\n" {
			t.Errorf("cloned: %q", got)
		}
	})
}

// A gRPC client of the C core reaches the control plane from an SSH session, with no
// arguments: its endpoint is in the environment, and its sockets are of IPv6.
func TestSSHControlPlaneGRPC(t *testing.T) {
	testenv.Require(t, "ssh")
	python := "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import grpc").Run(); err != nil {
		t.Fatal("python3-grpcio is not installed: scripts/deps installs it")
	}
	f := newFixture(t)
	f.env.Zone("control.test", netip.MustParseAddr(allowedIPv4), netip.MustParseAddr(allowedIPv6))
	port := f.serveGRPC()
	s := f.newService()
	s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, "/usr/bin/curl")), func(spec *ringfencev1.SandboxSpec) {
		spec.ControlPlane = "http://control.test:" + strconv.Itoa(port)
	})
	script := `
import grpc, os, sys
endpoint = os.environ["RINGFENCE_ENDPOINT"]
for scheme in ("http://", "https://"):
    endpoint = endpoint.removeprefix(scheme)
channel = grpc.insecure_channel(endpoint)
check = channel.unary_unary("/grpc.health.v1.Health/Check")
print(check(b"", timeout=20).hex(), os.environ["RINGFENCE_SANDBOX_ID"] != "")
`
	f.file("client.py", script, 0o644)
	c := s.sshTo(t, "one")
	out, status := c.ssh(t, python+" "+filepath.Join(f.dir, "client.py"))
	if status != 0 || out != "0801 True\n" { // SERVING
		t.Errorf("client: %q, status %d", out, status)
	}
	for _, r := range s.records("one") {
		if r.Host == "control.test" && r.Verdict == "allow" && r.Engine == "control_plane" {
			return
		}
	}
	t.Errorf("no record of the control plane: %+v", s.records("one"))
}

func withInput(cmd *exec.Cmd, input string) *exec.Cmd {
	cmd.Stdin = strings.NewReader(input)
	return cmd
}

// command runs a command and returns what it wrote; a failure is the test's.
func command(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, errOut.String())
	}
	return string(out)
}
