// Package daemon is the agent as a service: it keeps the sandboxes of a host, over
// its own restarts too, and serves them by the control API and by SSH.
//
// It wires the agent, the store, the journal of records, the SSH server and the API,
// starts them in one order and stops them in reverse. What a call may hold is checked
// by internal/api, what a sandbox is and does is internal/agent's.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/source"
	"github.com/ringfence/ringfence/internal/sshd"
	"github.com/ringfence/ringfence/internal/store"
)

// Config says how the service is to be.
type Config struct {
	Version string
	// Instance tells this service from others on the host.
	Instance string
	// StateDir keeps what survives the machine.
	StateDir string
	// Socket is where the API is served; members of SocketGroups may use it.
	Socket       string
	SocketGroups []uint32
	// Policy is that of sandboxes which name none. Its Rego narrows all policies.
	Policy    source.Set
	Resolvers []netip.AddrPort
	Trusted   []netip.Prefix
	// ControlPlane is allowed to every sandbox; Endpoint is it as programs are told.
	ControlPlane flow.Target
	Endpoint     string
	MaxSandboxes int
	SSH          SSHConfig
	Records      event.JournalConfig
	Log          *slog.Logger
}

// Daemon is the running service.
type Daemon struct {
	cfg Config
	log *slog.Logger

	store   *store.Store
	journal *event.Journal
	agent   *agent.Agent
	ssh     *sshServer
	api     *api.Server

	fleet         *fleet
	library       *library
	defaultPolicy *pb.PolicySource
	providers     sync.Mutex // held while a provider is changed
	started       time.Time
	adopted       int

	failed   chan error    // the API or SSH is no longer served
	stopping chan struct{} // closed when the stop begins
	tasks    sync.WaitGroup
	undo     []func(context.Context) error // what Stop does, last first
}

// stopTimeout bounds how long a graceful stop may take.
const stopTimeout = 20 * time.Second

// Run starts the service, and serves until ctx ends. Sandboxes go on without it,
// fenced, and are adopted by the next.
func Run(ctx context.Context, cfg Config) (err error) {
	d := &Daemon{
		cfg: cfg, fleet: newFleet(), started: time.Now(), stopping: make(chan struct{}),
		failed: make(chan error, 1),
	}
	d.log = slog.New(newLevels(cfg.Log.Handler(), d.fleet))
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.startAll(ctx); err != nil {
		return err
	}
	d.notify("READY=1\nSTATUS=" + d.summary())
	d.log.Info("serving", "api", cfg.Socket, "ssh", cmp.Or(d.cfg.SSH.Listen, "off"), "sandboxes", d.fleet.len(), "adopted", d.adopted,
		"took", time.Since(d.started).Round(time.Millisecond))
	select {
	case <-ctx.Done():
	case err := <-d.failed:
		return err
	}
	return nil
}

// stages are the start in its order: each stands on those before, and nobody can ask
// for anything before all of them stand.
func (d *Daemon) stages() []stage {
	return []stage{
		{"state", d.openState},
		{"hooks", d.startAgent},
		{"sandboxes", d.resumeAll},
		{"ssh", d.startSSH},
		{"api", d.startAPI},
	}
}

type stage struct {
	name  string
	start func(context.Context) error
}

func (d *Daemon) startAll(ctx context.Context) error {
	for _, s := range d.stages() {
		begin := time.Now()
		if err := s.start(ctx); err != nil {
			return fmt.Errorf("start %s: %w", s.name, err)
		}
		d.log.Debug("started", "stage", s.name, "took", time.Since(begin).Round(time.Millisecond))
	}
	return nil
}

// stop undoes the start, last first.
func (d *Daemon) stop() error {
	d.notify("STOPPING=1")
	close(d.stopping)
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	for len(d.undo) > 0 {
		last := len(d.undo) - 1
		errs = append(errs, d.undo[last](ctx))
		d.undo = d.undo[:last]
	}
	return errors.Join(errs...)
}

// fail ends the service, whose next start adopts what there is: half of it would go
// unnoticed.
func (d *Daemon) fail(err error) {
	select {
	case d.failed <- err:
	default: // it ends already
	}
}

func (d *Daemon) onStop(undo func(context.Context) error) { d.undo = append(d.undo, undo) }

func (d *Daemon) summary() string {
	return fmt.Sprintf("%d sandboxes, %d of them adopted", d.fleet.len(), d.adopted)
}

// openState opens what was kept, and reads it.
func (d *Daemon) openState(context.Context) error {
	var err error
	if d.library, d.defaultPolicy, _, err = loadDefault(d.cfg); err != nil {
		return err
	}
	if d.journal, err = event.NewJournal(d.cfg.Records); err != nil {
		return err
	}
	d.onStop(d.journal.Close)
	if d.store, err = store.Open(store.Config{Dir: d.cfg.StateDir, Log: d.log}); err != nil {
		return err
	}
	d.onStop(func(context.Context) error { return d.store.Close() })
	return d.restore()
}

// Check tells what would end a start with a configuration, as far as that can be told
// without one, and what is odd about its policies.
func Check(cfg Config) (warnings []string, err error) {
	_, _, warnings, err = loadDefault(cfg)
	if _, keys := sshd.ParseAuthorizedKeys(cfg.SSH.UserCA); keys != nil {
		err = errors.Join(err, fmt.Errorf("read ssh-user-ca: %w", keys))
	}
	return warnings, err
}

// loadDefault reads the policy of sandboxes that name none.
func loadDefault(cfg Config) (*library, *pb.PolicySource, []string, error) {
	s, modules, err := sourceOf(cfg.Policy)
	if err != nil {
		return nil, nil, nil, err
	}
	l := newLibrary(modules)
	_, warnings, _, err := l.load(s)
	return l, s, warnings, err
}

// startAgent attaches the hooks, or adopts those of the agent before.
func (d *Daemon) startAgent(ctx context.Context) error {
	var err error
	d.agent, err = agent.Start(ctx, agent.Config{
		Instance: d.cfg.Instance, Resolvers: d.cfg.Resolvers, Trusted: d.cfg.Trusted,
		MaxSandboxes: d.cfg.MaxSandboxes, Sink: sink{d}, Log: d.log,
	})
	if err != nil {
		return err
	}
	d.onStop(func(context.Context) error {
		defer d.tasks.Wait()
		if d.fleet.len() == 0 { // nothing that a fence would have to stand for
			return d.agent.Close()
		}
		return d.agent.Detach()
	})
	return nil
}

// startAPI serves the control API, last of all.
func (d *Daemon) startAPI(context.Context) error {
	var err error
	d.api, err = api.NewServer(api.ServerConfig{
		Socket: d.cfg.Socket, GIDs: d.cfg.SocketGroups, Log: d.log,
		Services: api.Services{
			Sandboxes: sandboxesService{Daemon: d},
			Policies:  policiesService{Daemon: d},
			Providers: providersService{Daemon: d},
			Records:   recordsService{Daemon: d},
			Agent:     agentService{Daemon: d},
		},
	})
	if err != nil {
		return err
	}
	d.onStop(d.api.Shutdown)
	d.tasks.Go(func() {
		if err := d.api.Serve(); err != nil {
			d.fail(fmt.Errorf("serve API: %w", err))
		}
	})
	d.api.SetServing(true)
	return nil
}
