package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/internal/datapath"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/identity"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/names"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/relay"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/sandbox"
)

// drainTimeout bounds the wait for connections to end with their sandbox.
const drainTimeout = 5 * time.Second

// SandboxConfig says what one sandbox is and may do.
type SandboxConfig struct {
	Name   string
	Engine *policy.Engine // this sandbox's alone: its links are in it
	// User runs the sandbox's programs: a link that it can change is not trusted.
	User rootfs.User
	// Visible are host paths that stay visible under masked directories.
	Visible []string
	// Workdir is where the first command works: a policy may make it writable.
	Workdir string
	// Trusted is which files were first used under their paths before a restart, and
	// SaveTrust keeps that for the next one: see identity.Config. It is not called any
	// more once Close has returned.
	Trusted   []identity.Trust
	SaveTrust func([]identity.Trust) error
}

// Sandbox is a sandbox with its services: DNS, capture and the explicit proxy.
type Sandbox struct {
	*sandbox.Sandbox
	agent      *Agent
	identities *identity.Table
	pool       *names.Pool
	keeper     *keeper
	relay      *relay.Relay
	context    context.Context // of the services; ends with Close
	stop       context.CancelFunc
	services   sync.WaitGroup
	told       told
	tally      Tally   // of before
	memory     *memory // nil where the sandbox ends with its agent
	adopted    bool    // another agent has made it
	closed     atomic.Bool
}

// CreateSandbox makes a sandbox and serves it. It returns once a command may be
// started. An error leaves nothing behind.
func (a *Agent) CreateSandbox(ctx context.Context, cfg SandboxConfig) (_ *Sandbox, err error) {
	a.coming.RLock()
	defer a.coming.RUnlock()
	sb := &Sandbox{agent: a}
	parts := a.parts(cfg)
	if parts.Anchor != "" {
		if sb.memory, err = newMemory(); err != nil {
			return nil, err
		}
		parts.Memory = sb.memory.file
	}
	parts.Visible, parts.User = cfg.Visible, cfg.User
	parts.Files, parts.LandlockRequired = filesOf(cfg.Engine.Policy(), cfg.Workdir), cfg.Engine.Policy().LandlockRequired()
	if sb.Sandbox, err = sandbox.Create(ctx, parts); err != nil {
		return nil, err
	}
	if err := sb.start(ctx, cfg, &recollection{}); err != nil {
		return nil, errors.Join(err, sb.Sandbox.Close())
	}
	return sb, nil
}

// parts says where the parts of a sandbox are, whether it is made or adopted.
func (a *Agent) parts(cfg SandboxConfig) sandbox.Config {
	return sandbox.Config{
		Name: cfg.Name, Cgroup: filepath.Join(a.parent.Path(), cfg.Name), Datapath: a.datapath,
		Anchor: a.instance.anchor(cfg.Name),
	}
}

// start makes what the services of a sandbox need, with what is known of it from an
// agent before, and starts them.
func (sb *Sandbox) start(ctx context.Context, cfg SandboxConfig, before *recollection) (err error) {
	a := sb.agent
	for _, text := range sb.Warnings() {
		a.cfg.Log.Warn(text, "sandbox", cfg.Name)
	}
	root := rootfs.New(sb.Root())
	pool := names.PoolConfig{Known: before.hosts}
	table := identity.Config{
		Execs: a.datapath, Files: files{root, a.datapath}, Hashes: a.hashes, Named: cfg.Engine.Names,
		Trusted: cfg.Trusted, SaveTrust: cfg.SaveTrust,
	}
	sb.told.recall(before.counts)
	sb.tally = before.tally
	if sb.memory != nil {
		pool.Remember, sb.told.keep = sb.memory.addHost, sb.memory.setCounts
	}
	if sb.pool, err = names.NewPool(pool); err != nil {
		return err
	}
	if sb.identities, err = identity.NewTable(table); err != nil {
		return err
	}
	sb.keeper = newKeeper(cfg.Engine, root, cfg.User, a.watches, a.cfg.Log.With("sandbox", cfg.Name))
	// Before anything runs that a link could stand for.
	if _, err := sb.keeper.relink(ctx, nil); err != nil {
		return err
	}
	sb.serve(ctx, cfg)
	a.mu.Lock()
	a.sandboxes[sb.CgroupID()] = sb
	a.mu.Unlock()
	return nil
}

// filesOf returns what a policy says of files; nil where it says nothing.
func filesOf(p *policy.Policy, workdir string) *launch.Files {
	files, restricted := p.Files()
	if !restricted {
		return nil
	}
	f := &launch.Files{ReadOnly: files.ReadOnly, ReadWrite: files.ReadWrite}
	if files.IncludeWorkdir {
		f.Workdir = workdir
	}
	return f
}

// serve starts the services. They end with Close, not with the caller's context.
func (sb *Sandbox) serve(ctx context.Context, cfg SandboxConfig) {
	ctx, sb.stop = context.WithCancel(context.WithoutCancel(ctx))
	sb.context = ctx
	a, listeners := sb.agent, sb.Listeners()
	origins := a.datapath.Origins(sb.NetnsCookie())

	server := names.NewServer(names.ServerConfig{
		Sandbox:    cfg.Name,
		Pool:       sb.pool,
		Zone:       cfg.Engine,
		Askers:     askers{origins, sb.identities},
		Sink:       a.cfg.Sink,
		Generation: cfg.Engine.Generation,
	})
	sb.relay = relay.New(relay.Config{
		Sandbox:    cfg.Name,
		Origins:    origins,
		Identities: sb.identities,
		Names:      sb.pool,
		Decider:    cfg.Engine,
		Dialer:     names.NewDialer(names.DialerConfig{Resolver: a.resolver, Trusted: a.cfg.Trusted}),
		Sink:       a.cfg.Sink,
		Report:     func(err error) { a.cfg.Log.Error("relay", "sandbox", cfg.Name, "error", err) },
	})
	sb.keeper.applied = func() {
		sb.identities.Outdate() // the policy may name other programs
		sb.relay.Redecide()
	}
	sb.service("identity", func() error { return sb.identities.Run(ctx) })
	sb.service("links", func() error { return sb.keeper.watch(ctx) })
	sb.service("dns", func() error { return server.Serve(ctx, listeners.DNS, listeners.DNSOverTCP) })
	for _, l := range listeners.Capture {
		sb.service("capture", func() error { return sb.relay.ServeCapture(ctx, l) })
	}
	for _, l := range listeners.Proxy {
		sb.service("proxy", func() error { return sb.relay.ServeProxy(ctx, l) })
	}
}

// service runs one service. One that fails leaves its part of the sandbox
// without an answer: fenced, so it is told, and nothing else is done.
func (sb *Sandbox) service(name string, run func() error) {
	sb.services.Go(func() {
		// One that had not begun when the sandbox was ended says so, too.
		if err := run(); err != nil && !sb.closed.Load() {
			sb.agent.cfg.Log.Error("service ended", "sandbox", sb.Name(), "service", name, "error", err)
		}
	})
}

// Close ends the sandbox's processes, then its connections, then removes it.
func (sb *Sandbox) Close() error {
	if sb.closed.Swap(true) {
		return nil
	}
	killed := sb.Kill()
	sb.linger()
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	drained := sb.relay.Shutdown(ctx)
	sb.stop()
	sb.services.Wait()
	sb.recordUntold()
	sb.agent.forget(sb.CgroupID())
	if err := errors.Join(killed, drained, sb.Sandbox.Close()); err != nil {
		return fmt.Errorf("close sandbox %s: %w", sb.Name(), err)
	}
	return nil
}

// AcceptProgram trusts whatever file is used next under a path: the operator has
// changed the one that was used there first.
func (sb *Sandbox) AcceptProgram(path string) { sb.identities.Accept(path) }

// Tally returns what SetTally was given last, by this agent or the one before.
func (sb *Sandbox) Tally() Tally { return sb.tally }

// SetTally keeps what the owner counts for the next agent. It is one short write; one
// call at a time.
func (sb *Sandbox) SetTally(t Tally) {
	if sb.memory != nil {
		_ = sb.memory.setTally(t) // a count is no reason to end anything
	}
}

// Trusted returns which files are trusted, as SaveTrust gets it.
func (sb *Sandbox) Trusted() []identity.Trust { return sb.identities.Trusted() }

// maxEnded is of how many sandboxes that ended a rejection may still be on its way.
const maxEnded = 1024

// forget takes a sandbox out of those that there are.
func (a *Agent) forget(cgroupID uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sandboxes, cgroupID)
	if a.ended = append(a.ended, cgroupID); len(a.ended) > maxEnded {
		a.ended = slices.Delete(a.ended, 0, 1)
	}
}

// describe fills in what is known of a sandbox's rejection.
func (sb *Sandbox) describe(record *flow.Record, r flow.Rejection) {
	record.Sandbox = sb.Name()
	if !r.Exec.IsZero() {
		// An exec that has ended is not known any more: the pid must do.
		if id, err := sb.identities.Lookup(r.Exec); err == nil {
			record.SetIdentity(id)
		}
	}
	if r.Destination.IsValid() {
		if host, ok := sb.pool.Host(r.Destination.Addr()); ok {
			record.Host = host
		}
	}
}

// askers tells the DNS server which program asked, where that is known.
type askers struct {
	origins    *datapath.Origins
	identities *identity.Table
}

// Asker implements names.Askers.
func (a askers) Asker(remote netip.AddrPort) *flow.Identity {
	exec := a.origins.Asker(remote)
	if exec.IsZero() {
		return nil
	}
	id, err := a.identities.Lookup(exec)
	if err != nil {
		return nil
	}
	return id
}
