package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// cli is a command of the program's that asks the service.
func (s *service) cli(args ...string) *exec.Cmd {
	cmd := exec.Command(s.program, args...)
	cmd.Env = append(os.Environ(), "RINGFENCE_SOCKET="+s.socket, "HOME="+s.run)
	cmd.Dir = s.dir
	return cmd
}

// said runs a command to its end.
func (s *service) said(args ...string) (stdout, stderr string, status int) {
	s.t.Helper()
	cmd := s.cli(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) {
		s.t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// trust is what has curl trust the fixture's servers.
func (s *service) trust() (flags []string) {
	for i, flag := range s.fixture.flags {
		if flag == "--env" {
			flags = append(flags, flag, s.fixture.flags[i+1])
		}
	}
	return flags
}

// The user's commands do with a service what they do with their tests' double.
func TestServiceCommands(t *testing.T) {
	testenv.Require(t, "curl", "ssh")
	f := newFixture(t)
	s := f.newService()
	policy := f.file("p.yaml", networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl"))), 0o644)
	step := func(wantStatus int, want string, args ...string) {
		t.Helper()
		out, errOut, status := s.said(args...)
		if status != wantStatus || !strings.Contains(out+errOut, want) {
			t.Errorf("%q: status %d, want %d with %q\n%s%s", args, status, wantStatus, want, out, errOut)
		}
	}
	step(0, "serving", "agent", "status")
	step(0, "web", append([]string{"sandbox", "create", "web", "--policy", policy, "--label", "a=b", "--env", "FOO=bar", "--workdir", s.dir}, s.trust()...)...)
	step(1, "hint: ", "sandbox", "create", "web")
	step(0, "a=b", "sandbox", "list", "-o", "wide")
	step(7, "bar", "sandbox", "exec", "web", "--", "sh", "-c", "echo $FOO; exit 7")
	step(127, "no such file", "sandbox", "exec", "web", "--", "/no/such/program")
	step(125, "no sandbox", "sandbox", "exec", "none", "--", "true")
	step(0, "200", "sandbox", "exec", "web", "--", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "https://"+allowedName)
	step(56, "403", "sandbox", "exec", "web", "--", "curl", "-sS", "https://"+deniedName)
	step(0, "DENY", "events", "--sandbox", "web", "--verdict", "deny")
	step(4, "in the sandbox web", "ssh", "web", "--", "echo in the sandbox $RINGFENCE_SANDBOX; exit 4")
	step(0, "", "sandbox", "cp", policy, "web:/tmp/there")
	step(0, "network_policies", "sandbox", "cp", "web:/tmp/there", "-")
	step(0, "loaded", "policy", "set", "web", policy, "--latest", "1")
	step(1, "hint: ", "policy", "set", "web", policy, "--latest", "1")
	step(0, "superseded", "policy", "revisions", "web")
	step(0, "p.yaml", "policy", "get", "web")
	step(0, "b=c", "sandbox", "update", "web", "--label", "a-", "--label", "b=c", "-o", "wide")
	step(0, "key", "provider", "create", "gh", "--type", "github", "--credential", "key=secret")
	step(0, "github", "provider", "list")
	step(0, "deleted gh", "provider", "delete", "gh")
	step(0, "deleted web", "sandbox", "delete", "web")
	step(1, "web", "sandbox", "show", "web")
}

// Events are followed over a restart of the agent: each is shown once.
func TestServiceEventsOverRestart(t *testing.T) {
	testenv.Require(t)
	f := newFixture(t)
	s := f.newService()
	s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, "/usr/bin/curl")))
	follow := s.cli("events", "-f", "-o", "json", "--reason", "api_exec")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	lines := json.NewDecoder(out)
	next := func() string {
		t.Helper()
		var r record
		if err := lines.Decode(&r); err != nil {
			t.Fatal(err)
		}
		return r.Command
	}
	s.exec("one", "echo first")
	if got := next(); !strings.Contains(got, "first") {
		t.Errorf("followed: %q", got)
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.exec("one", "echo second")
	if got := next(); !strings.Contains(got, "second") {
		t.Errorf("followed after the restart: %q", got)
	}
	if err := follow.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Error(err)
	}
	_ = follow.Wait()
}

// A run in a service ends as one of its own does, and leaves no sandbox.
func TestServiceRun(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	s := f.newService()
	policy := f.file("p.yaml", networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl"))), 0o644)
	records := filepath.Join(t.TempDir(), "records")
	script := "curl -sS -o /dev/null -w '%{http_code}' https://" + allowedName + "; curl -sS https://" + deniedName + "; pwd; exit 5"
	out, errOut, status := s.said(append(append([]string{"run", "--policy", policy, "--records", records}, s.trust()...), "--", "sh", "-c", script)...)
	if status != 5 || !strings.HasPrefix(out, "200") || !strings.Contains(out, s.dir) {
		t.Errorf("status %d: %s%s", status, out, errOut)
	}
	verdicts := map[string]string{}
	for _, r := range readRecords(t, records) {
		verdicts[r.Host] = r.Verdict
		if r.Mode == "api" {
			t.Errorf("a record of what was asked of the agent: %+v", r)
		}
	}
	if verdicts[allowedName] != "allow" || verdicts[deniedName] != "deny" {
		t.Errorf("records: %v", verdicts)
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		cmd := s.cli("run", "--policy", policy, "--", "sh", "-c", "echo ready; read x")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		said, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(said, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); signal != syscall.SIGKILL && cmd.ProcessState.ExitCode() != 128+int(signal) {
			t.Errorf("%v: %v", signal, err)
		}
		in.Close()
		s.awaitNoSandbox()
	}

	// An agent that is killed takes the run's sandbox with it, at its next start.
	cmd := s.cli("run", "--policy", policy, "--", "sh", "-c", "echo ready; sleep 60")
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(said, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	_ = s.stop(syscall.SIGKILL)
	s.start()
	s.awaitNoSandbox()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 125 {
		t.Errorf("the run whose agent was killed: %v", err)
	}
}

// awaitNoSandbox waits until the last one is deleted.
func (s *service) awaitNoSandbox() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	for {
		list, err := s.client.Sandboxes.ListSandboxes(ctx, &ringfencev1.ListSandboxesRequest{})
		if err != nil {
			s.t.Fatalf("sandboxes are left: %v\n%s", api.ErrorOf(err), s.log)
		}
		if len(list.GetSandboxes()) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
