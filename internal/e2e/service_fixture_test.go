package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// service is an agent that runs as a service in a fixture's host namespace, with a
// client of its API.
type service struct {
	*fixture
	instance    string
	state, run  string // directories
	socket, ssh string
	flags       []string
	program     string
	environ     []string // of the agent's, beside the usual
	cmd         *exec.Cmd
	exited      chan error
	log         *safeBuffer
	client      *api.Client
}

// safeBuffer is written to by a command while a test reads it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *safeBuffer) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Reset()
}

// newService starts an agent. What it has is gone when the test ends, and a leak of
// it is a failure.
func (f *fixture) newService(flags ...string) *service {
	f.t.Helper()
	s := f.prepareService(flags...)
	f.t.Cleanup(s.end)
	s.start()
	return s
}

// prepareService makes an agent that is not started, and may not start at all: then
// nothing of it may be there when the test ends.
func (f *fixture) prepareService(flags ...string) *service {
	f.t.Helper()
	instance := fmt.Sprintf("e2e-%08x", rand.Uint32())
	testenv.CheckLeaks(f.t, instance)
	run, err := os.MkdirTemp("/run", instance+"-")
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { os.RemoveAll(run) })
	s := &service{
		fixture: f, instance: instance, program: program, run: run, state: filepath.Join(run, "state"),
		socket: filepath.Join(run, "agent.sock"), ssh: filepath.Join(run, "ssh.sock"),
		log: &safeBuffer{},
	}
	for i := 0; i < len(f.flags); i++ { // those of run that the service has too
		switch f.flags[i] {
		case "--resolver", "--trusted-network":
			s.flags = append(s.flags, f.flags[i], f.flags[i+1])
		}
	}
	s.flags = append(s.flags, flags...)
	return s
}

// start starts the agent, and waits until it serves.
func (s *service) start() {
	s.t.Helper()
	s.launch()
	s.await()
}

// launch starts the agent without waiting for anything.
func (s *service) launch() {
	s.t.Helper()
	args := append([]string{
		"agent", "--instance", s.instance, "--state-dir", s.state, "--socket", s.socket, "--ssh-socket", s.ssh,
		"--ssh-listen", "127.0.0.1:2222", "--log-level", "debug",
	}, s.flags...)
	s.cmd = s.env.Command(s.program, args...)
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.Env = s.log, s.log, append(s.cmd.Env, s.environ...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(s.cmd, s.exited)
}

// await waits until the agent serves.
func (s *service) await() {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		select {
		case err := <-s.exited:
			s.exited <- err // for end
			s.t.Fatalf("the agent ended: %v\n%s", err, s.log)
		default:
		}
		if s.serves() {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the agent does not serve\n%s", s.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *service) serves() bool {
	if ok, err := api.Probe(s.socket); !ok || err != nil {
		return false
	}
	if s.client == nil {
		client, err := api.Dial(s.socket)
		if err != nil {
			return false
		}
		s.client = client
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // also in a clean-up
	defer cancel()
	_, err := s.client.Agent.GetStatus(ctx, &ringfencev1.GetStatusRequest{})
	return err == nil
}

// stop ends the agent by a signal and waits for that.
func (s *service) stop(signal syscall.Signal) error {
	s.t.Helper()
	pid := s.pid()
	if err := syscall.Kill(pid, signal); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.exited:
		s.exited <- err // for end, unless it is started again
		return err
	case <-time.After(time.Minute):
		s.t.Fatalf("the agent does not end by %v\n%s", signal, s.log)
		return nil
	}
}

// pid is the agent's: nsenter has executed it in its own place.
func (s *service) pid() int { return s.cmd.Process.Pid }

// end removes everything: a service without sandboxes leaves nothing.
func (s *service) end() {
	select {
	case <-s.exited:
		s.launch()
	default:
	}
	s.await()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list, err := s.client.Sandboxes.ListSandboxes(ctx, &ringfencev1.ListSandboxesRequest{PageSize: 1000})
	if err != nil {
		s.t.Errorf("list: %v", api.ErrorOf(err))
	}
	for _, sb := range list.GetSandboxes() {
		if _, err := s.client.Sandboxes.DeleteSandbox(ctx, &ringfencev1.DeleteSandboxRequest{Name: sb.GetName()}); err != nil {
			s.t.Errorf("delete %s: %v", sb.GetName(), api.ErrorOf(err))
		}
	}
	_ = s.client.Close()
	if err := s.stop(syscall.SIGTERM); err != nil {
		s.t.Errorf("stop: %v\n%s", err, s.log)
	}
	for deadline := time.Now().Add(10 * time.Second); reap(s.t) > 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if s.t.Failed() {
		s.t.Logf("the agent's log:\n%s", s.log)
	}
}

// create makes a sandbox under a policy's text.
func (s *service) create(name, policy string, edit ...func(*ringfencev1.SandboxSpec)) *ringfencev1.Sandbox {
	s.t.Helper()
	spec := &ringfencev1.SandboxSpec{
		Policy: policySource(policy), Workdir: s.dir, Environment: map[string]string{},
	}
	for i := 0; i < len(s.fixture.flags); i++ {
		if s.fixture.flags[i] == "--env" {
			key, value, _ := strings.Cut(s.fixture.flags[i+1], "=")
			spec.Environment[key] = value
		}
	}
	for _, e := range edit {
		e(spec)
	}
	sb, err := s.client.Sandboxes.CreateSandbox(s.t.Context(), &ringfencev1.CreateSandboxRequest{Name: name, Spec: spec})
	if err != nil {
		s.t.Fatalf("create %s: %v\n%s", name, api.ErrorOf(err), s.log)
	}
	return sb
}

// policySource is a policy's text, or a shipped policy's name.
func policySource(text string) *ringfencev1.PolicySource {
	if !strings.Contains(text, "\n") {
		return &ringfencev1.PolicySource{Files: []*ringfencev1.PolicyFile{{Name: text}}}
	}
	return &ringfencev1.PolicySource{Files: []*ringfencev1.PolicyFile{{Name: "test.yaml", Yaml: []byte(text)}}}
}

// networkPolicy is a policy with the network_policies given, two spaces in.
func networkPolicy(network string) string { return "version: 1\nnetwork_policies:\n" + network }

// exec runs a shell script in a sandbox to its end.
func (s *service) exec(name, script string) (stdout, stderr string, status int) {
	s.t.Helper()
	out, errOut, status, err := s.tryExec(s.t.Context(), name, script)
	if err != nil {
		s.t.Fatalf("exec in %s: %v\n%s", name, api.ErrorOf(err), s.log)
	}
	return out, errOut, status
}

func (s *service) tryExec(ctx context.Context, name, script string) (stdout, stderr string, status int, err error) {
	return s.tryStart(ctx, &ringfencev1.ExecStart{Sandbox: name, Argv: []string{"/bin/sh", "-c", script}})
}

// tryStart runs a command without input to its end.
func (s *service) tryStart(ctx context.Context, start *ringfencev1.ExecStart) (stdout, stderr string, status int, err error) {
	stream, err := s.client.Sandboxes.Exec(ctx)
	if err != nil {
		return "", "", 0, err
	}
	if err := stream.Send(&ringfencev1.ExecRequest{Message: &ringfencev1.ExecRequest_Start{Start: start}}); err != nil {
		return "", "", 0, err
	}
	if err := stream.CloseSend(); err != nil {
		return "", "", 0, err
	}
	var out, errOut strings.Builder
	for {
		m, err := stream.Recv()
		if err != nil {
			return out.String(), errOut.String(), 0, err
		}
		switch m := m.GetMessage().(type) {
		case *ringfencev1.ExecResponse_Stdout:
			out.Write(m.Stdout)
		case *ringfencev1.ExecResponse_Stderr:
			errOut.Write(m.Stderr)
		case *ringfencev1.ExecResponse_Exit:
			if m.Exit.GetError() != "" {
				return out.String(), errOut.String(), int(m.Exit.GetCode()), errors.New(m.Exit.GetError())
			}
			return out.String(), errOut.String(), int(m.Exit.GetCode()), nil
		}
	}
}

// detach starts a shell script that outlives its caller and the agent.
func (s *service) detach(name, script string) {
	s.t.Helper()
	stream, err := s.client.Sandboxes.Exec(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	start := &ringfencev1.ExecStart{Sandbox: name, Argv: []string{"/bin/sh", "-c", script}, Detach: true}
	if err := stream.Send(&ringfencev1.ExecRequest{Message: &ringfencev1.ExecRequest_Start{Start: start}}); err != nil {
		s.t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetStarted() == nil {
		s.t.Fatalf("detach in %s: %v, %v\n%s", name, m, api.ErrorOf(err), s.log)
	}
}

// records returns what the agent has recorded of a sandbox.
func (s *service) records(name string) []record {
	s.t.Helper()
	var lines strings.Builder
	token := ""
	for {
		page, err := s.client.Records.QueryRecords(s.t.Context(), &ringfencev1.QueryRecordsRequest{
			Filter: &ringfencev1.RecordFilter{Sandbox: name}, PageSize: 1000, PageToken: token,
		})
		if err != nil {
			s.t.Fatal(api.ErrorOf(err))
		}
		for _, r := range page.GetRecords() {
			lines.WriteString(r.GetJson() + "\n")
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	path := filepath.Join(s.t.TempDir(), "records")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return readRecords(s.t, path)
}
