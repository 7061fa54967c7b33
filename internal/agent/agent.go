// Package agent wires the rooms together: it starts them in order, hands each
// the narrow interface of the next, and stops them in reverse.
//
// It owns one instance: a lock, one parent cgroup with the hooks attached to it,
// and the sandboxes below. It decides nothing itself.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/datapath"
	"github.com/ringfence/ringfence/internal/floor"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/identity"
	"github.com/ringfence/ringfence/internal/names"
	"github.com/ringfence/ringfence/internal/watch"
)

// Sink takes every record. Emit must not wait for long.
type Sink interface {
	Emit(*flow.Record)
}

// Config is what all sandboxes of an agent share.
type Config struct {
	// Resolvers are asked for names that a connection was allowed to. Empty: the
	// system's, of /etc/resolv.conf.
	Resolvers []netip.AddrPort
	// Trusted are special-purpose networks that names may resolve to.
	Trusted []netip.Prefix
	// MaxSandboxes is how many there may be at once; 0 is as many as can be. Memory
	// of the kernel's and the time of the start grow with it.
	MaxSandboxes int
	// Instance is the name of an instance that outlives its agents: what one has left
	// of it, the next adopts. Empty: one of this agent alone, which ends with it.
	Instance string
	Sink     Sink
	Log      *slog.Logger
}

// Agent is a started instance.
type Agent struct {
	cfg      Config
	instance *instance
	parent   *cgroup.Group
	datapath *datapath.Datapath
	resolver *names.Resolver
	hashes   *identity.Hashes
	watches  *watch.Hub
	opened   string // how the hooks were
	stop     context.CancelFunc
	tasks    sync.WaitGroup

	told   told     // of rejections of no sandbox
	counts *os.File // in which a named instance keeps them

	// inherits: the hooks are those of an agent before, and perhaps there are sandboxes.
	inherits bool
	// settled is closed when every sandbox is known that another agent has left.
	settled     chan struct{}
	settledOnce sync.Once
	// coming is held (for reading) while a sandbox is there that is not in sandboxes yet.
	coming sync.RWMutex

	mu        sync.Mutex
	sandboxes map[uint64]*Sandbox // by cgroup id
	ended     []uint64            // cgroup ids of the last sandboxes that ended, at most maxEnded
}

// ErrHooks is returned when the hooks cannot be attached.
var ErrHooks = errors.New("start hooks")

// Start removes what dead agents left, attaches the hooks and waits for sandboxes
// to be created. Those of a named instance that are there it leaves alone: each is to
// be adopted (AdoptSandbox), and the rest removed (RemoveUnclaimed). An error leaves
// nothing behind but what it found; it is a *floor.Error where the machine lacks what
// is needed, and then nothing was made, and a *HeldError where another agent has the
// instance.
func Start(ctx context.Context, cfg Config) (*Agent, error) {
	if err := floor.Check(Requirements()); err != nil {
		return nil, err
	}
	return start(ctx, cfg)
}

// start is Start on a machine that has what is needed.
func start(ctx context.Context, cfg Config) (_ *Agent, err error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	a := &Agent{cfg: cfg, stop: stop, settled: make(chan struct{}), sandboxes: map[uint64]*Sandbox{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.giveUp())
		}
	}()
	if a.resolver, err = names.NewResolver(names.ResolverConfig{Servers: cfg.Resolvers}); err != nil {
		return nil, err
	}
	if a.hashes, err = identity.NewHashes(); err != nil {
		return nil, err
	}
	if a.watches, err = watch.NewHub(); err != nil {
		return nil, err
	}
	if a.instance, err = claimInstance(ctx, cfg.Instance, cfg.Log); err != nil {
		return nil, err
	}
	if err := a.makeParent(ctx); err != nil {
		return nil, err
	}
	if err := a.openHooks(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHooks, err)
	}
	a.tasks.Go(func() { a.watchRejections(ctx) })
	a.tasks.Go(func() { a.watchExecs(ctx) })
	a.tasks.Go(func() { a.expireOrigins(ctx) })
	if a.inherits {
		a.tasks.Go(func() { a.tellUntold(ctx) })
	}
	return a, nil
}

// Number tells this agent from others that run on the host at the same time. A named
// instance has none: 0.
func (a *Agent) Number() uint32 { return a.instance.number }

// Close ends every sandbox and removes all that Start made. The hooks go last, and
// only once no process is left below them: what cannot be ended stays fenced, and is
// a leftover for the next start.
func (a *Agent) Close() error {
	errs := []error{atOnce(a.all(), (*Sandbox).Close), a.rest()}
	switch {
	case a.instance == nil:
	case a.parent == nil: // nothing was made that its claim would have to outlive
		errs = append(errs, a.instance.release())
	default:
		errs = append(errs, a.instance.remove())
	}
	return errors.Join(errs...)
}

// rest ends what serves no single sandbox, and lets go of the kernel's part.
func (a *Agent) rest() error {
	a.stop()
	a.tasks.Wait()
	var errs []error
	if a.watches != nil {
		errs = append(errs, a.watches.Close())
	}
	if a.counts != nil {
		errs = append(errs, a.counts.Close())
	}
	if a.datapath != nil {
		errs = append(errs, a.datapath.Close())
	}
	if a.parent != nil {
		errs = append(errs, a.parent.Close())
	}
	return errors.Join(errs...)
}

// makeParent makes the cgroup to which the hooks are attached once.
func (a *Agent) makeParent(ctx context.Context) error {
	root, err := cgroup.Find()
	if err != nil {
		return err
	}
	path := a.instance.cgroup(root)
	if err := makeDir(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	a.parent, err = cgroup.Create(path)
	if a.instance.named && errors.Is(err, fs.ErrExist) {
		a.parent, err = cgroup.Open(path)
	} else if a.instance.named && err == nil {
		// Without processes hooks have nothing to adopt, and they are another cgroup's.
		err = datapath.Unpin(a.instance.pinDir())
	}
	if err != nil {
		return err
	}
	if a.instance.named {
		return a.holdNamed(ctx)
	}
	return holdCgroup(a.parent)
}

// holdNamed tells of an agent that has the cgroup and whose directory somebody removed.
func (a *Agent) holdNamed(ctx context.Context) error {
	err := patiently(ctx, func() error { return holdCgroup(a.parent) })
	if errors.Is(err, errCgroupHeld) {
		err = errors.Join(&HeldError{Instance: a.instance.name()}, err)
	}
	return err
}

func (a *Agent) all() []*Sandbox {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]*Sandbox, 0, len(a.sandboxes))
	for _, sb := range a.sandboxes {
		all = append(all, sb)
	}
	return all
}
