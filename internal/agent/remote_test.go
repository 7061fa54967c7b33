package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/sandbox"
	"github.com/ringfence/ringfence/internal/testenv"
)

// A remote is an agent of a named instance in a process of its own, which can be
// killed. It does what it is told, one order after the other.
type remote struct {
	t        testing.TB
	instance string
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *json.Decoder
	took     time.Duration // by its start
}

// order is what a remote is to do. The field that is set says it.
type order struct {
	Create []string
	Adopt  map[string]sandbox.State
	Claim  []string
	Exec   *remoteCommand
	Tell   bool // the records so far
	Detach bool
	Close  bool
}

type remoteCommand struct {
	Sandbox, Script string
	Log             string // of a detached one
}

// answer is what came of an order.
type answer struct {
	Err     string
	Lost    map[string]string // sandboxes that could not be adopted
	States  map[string]sandbox.State
	Out     string
	Records []toldRecord
	Took    time.Duration
}

// toldRecord is what a test reads of a record.
type toldRecord struct {
	Allowed               bool
	Sandbox, Host, Binary string
	Reason                flow.Reason
	Count                 uint64
}

// remotePolicy lets bash reach one host.
const remotePolicy = `version: 1
network_policies:
  allowed:
    endpoints:
      - {host: allowed.test, ports: [25]}
    binaries:
      - {path: /usr/bin/bash}
`

// remoteMain is the process of a remote.
func remoteMain(instance string) int {
	records := &collector{}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	start := time.Now()
	a, err := Start(context.Background(), Config{
		Instance: instance, MaxSandboxes: 512, Sink: records, Log: log,
		Resolvers: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(testenv.ResolverIPv4), testenv.PortDNS)},
		Trusted:   []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
	})
	out := json.NewEncoder(os.Stdout)
	var p *policy.Policy
	if err == nil {
		p, _, err = policy.Load(policy.Source{Name: "test", Data: []byte(remotePolicy)})
	}
	if err != nil {
		_ = out.Encode(answer{Err: err.Error()})
		return 1
	}
	_ = out.Encode(answer{Took: time.Since(start)})
	in := json.NewDecoder(os.Stdin)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return 1
		}
		start := time.Now()
		result, err := o.do(a, p, records)
		if err != nil {
			result.Err = err.Error()
		}
		result.Took = time.Since(start)
		_ = out.Encode(result)
	}
}

// collector keeps records.
type collector struct {
	mu      sync.Mutex
	records []toldRecord
}

func (c *collector) Emit(r *flow.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = append(c.records, toldRecord{r.Verdict == flow.Allow, r.Sandbox, r.Host, r.Binary, r.Reason, r.Count})
}

func (o *order) do(a *Agent, p *policy.Policy, records *collector) (answer, error) {
	ctx := context.Background()
	switch {
	case o.Create != nil:
		return createAll(ctx, a, p, o.Create)
	case o.Adopt != nil:
		return adoptAll(ctx, a, p, o.Adopt)
	case o.Claim != nil:
		return answer{}, a.RemoveUnclaimed(ctx, o.Claim)
	case o.Exec != nil:
		out, err := o.Exec.run(ctx, a)
		return answer{Out: out}, err
	case o.Tell:
		records.mu.Lock()
		defer records.mu.Unlock()
		return answer{Records: records.records}, nil
	case o.Detach:
		return answer{}, a.Detach()
	case o.Close:
		return answer{}, a.Close()
	}
	return answer{}, errors.New("no order")
}

func remoteSandbox(ctx context.Context, p *policy.Policy, name string) (SandboxConfig, error) {
	engine, err := policy.NewEngine(ctx, p, policy.Config{})
	return SandboxConfig{Name: name, Engine: engine}, err
}

func createAll(ctx context.Context, a *Agent, p *policy.Policy, names []string) (answer, error) {
	result := answer{States: map[string]sandbox.State{}}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(8)
	for _, name := range names {
		group.Go(func() error {
			cfg, err := remoteSandbox(ctx, p, name)
			if err != nil {
				return err
			}
			sb, err := a.CreateSandbox(ctx, cfg)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			result.States[name] = sb.State()
			return nil
		})
	}
	return result, group.Wait()
}

func adoptAll(ctx context.Context, a *Agent, p *policy.Policy, states map[string]sandbox.State) (answer, error) {
	result := answer{Lost: map[string]string{}}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(16)
	for name, state := range states {
		group.Go(func() error {
			cfg, err := remoteSandbox(ctx, p, name)
			if err != nil {
				return err
			}
			_, err = a.AdoptSandbox(ctx, cfg, state)
			if errors.Is(err, sandbox.ErrLost) {
				mu.Lock()
				defer mu.Unlock()
				result.Lost[name], err = err.Error(), nil
			}
			return err
		})
	}
	return result, group.Wait()
}

func (c *remoteCommand) run(ctx context.Context, a *Agent) (string, error) {
	var sb *Sandbox
	for _, known := range a.all() {
		if known.Name() == c.Sandbox {
			sb = known
		}
	}
	user, err := launch.ReservedUser(77)
	if err != nil {
		return "", err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer null.Close()
	command := launch.Command{
		Argv: []string{"/bin/bash", "-c", c.Script}, Dir: "/", UID: user.UID, GID: user.GID,
		Env: []string{"PATH=/usr/bin:/bin"}, Detached: c.Log != "",
	}
	var output io.ReadCloser
	var w *os.File
	if c.Log != "" {
		w, err = os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	} else {
		output, w, err = os.Pipe()
	}
	if err != nil {
		return "", err
	}
	command.Stdio = [3]*os.File{null, w, null}
	process, err := sb.Exec(ctx, command)
	_ = w.Close()
	if err != nil || c.Log != "" {
		return "", err
	}
	defer output.Close()
	text, _ := io.ReadAll(output)
	_, err = process.Wait(ctx)
	return string(text), err
}

// startRemote starts an agent of an instance, in the network of env.
func startRemote(t testing.TB, env *testenv.Env, instance string) *remote {
	t.Helper()
	r := launchRemote(t, env, instance)
	first := r.answer()
	if first.Err != "" {
		t.Fatal(first.Err)
	}
	r.took = first.Took
	t.Logf("the agent started in %v", first.Took.Round(time.Millisecond))
	return r
}

func launchRemote(t testing.TB, env *testenv.Env, instance string) *remote {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{t: t, instance: instance, cmd: env.Command(self, "remote", instance)}
	r.cmd.Stderr = t.Output()
	out, err := r.cmd.StdoutPipe()
	if err == nil {
		r.in, err = r.cmd.StdinPipe()
	}
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	r.out = json.NewDecoder(out)
	t.Cleanup(func() { r.kill() })
	return r
}

func (r *remote) answer() answer {
	r.t.Helper()
	var a answer
	if err := r.out.Decode(&a); err != nil {
		r.t.Fatal("the agent does not answer: ", err)
	}
	return a
}

// do has an order done that must succeed.
func (r *remote) do(o order) answer {
	r.t.Helper()
	if err := json.NewEncoder(r.in).Encode(o); err != nil {
		r.t.Fatal(err)
	}
	a := r.answer()
	if a.Err != "" {
		r.t.Fatalf("%+v: %s", o, a.Err)
	}
	return a
}

func (r *remote) run(box, script string) string {
	r.t.Helper()
	return r.do(order{Exec: &remoteCommand{Sandbox: box, Script: script}}).Out
}

// kill ends the agent at once.
func (r *remote) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// instanceOf returns an instance of this test alone, of which nothing is left after it.
func instanceOf(t testing.TB) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skip: root is needed to attach hooks")
	}
	// Another test may have made this process the reaper of orphans, which it is not.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprint("test-", os.Getpid())
	t.Cleanup(func() {
		if _, err := removeLeftover(name); err != nil {
			t.Error(err)
		}
	})
	return name
}

// expectNothing looks for parts of an instance.
func expectNothing(t testing.TB, instance string) {
	t.Helper()
	for _, dir := range roots() {
		if _, err := os.Lstat(filepath.Join(dir, instance)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s of %s is left: %v", dir, instance, err)
		}
	}
}
