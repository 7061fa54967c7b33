// Package sandbox is the life of one local sandbox: its cgroup, its network
// namespace with the agent's listeners, its entry in the hooks, and the
// namespaces in which its commands run.
//
// It makes these in the one order that leaves no gap (the fence stands before
// the first process does) and takes them down in reverse. One with an anchor can be
// left standing, and adopted by another agent. What is served on the listeners, and
// what is decided, is the agent's business.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/datapath"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/netns"
	"github.com/ringfence/ringfence/internal/rootfs"
)

// killTimeout bounds the wait for a sandbox's processes to be gone.
const killTimeout = 10 * time.Second

// Config says what to make.
type Config struct {
	Name string
	// Cgroup is the path of the sandbox's cgroup: a child of the one to which the
	// hooks of Datapath are attached.
	Cgroup   string
	Datapath *datapath.Datapath
	// Visible are host paths that stay visible under masked directories.
	Visible []string
	// User is who the sandbox's programs run as; Files what they may use, nil for
	// all that this user may; LandlockRequired whether that must be enforced.
	User             rootfs.User
	Files            *launch.Files
	LandlockRequired bool
	// Anchor is where another agent finds the sandbox again, and Memory what it finds
	// there; see launch.Config. Without an anchor the sandbox ends with its agent.
	// Memory is closed with the sandbox, also where there is none for an error.
	Anchor string
	Memory *os.File
}

// Sandbox is a running sandbox.
type Sandbox struct {
	name      string
	datapath  *datapath.Datapath
	group     *cgroup.Group
	netns     *netns.Handle
	cookie    uint64
	ports     ports
	listeners Listeners
	space     *launch.Namespaces
	memory    *os.File
	ends      []end // last first
}

// end is what becomes of one part of a sandbox: when the sandbox is removed, and when
// it is left to another agent. Either may be nil.
type end struct{ remove, leave func() error }

// Create makes a sandbox. An error leaves nothing behind.
func Create(ctx context.Context, cfg Config) (_ *Sandbox, err error) {
	sb := &Sandbox{name: cfg.Name, datapath: cfg.Datapath, ports: ownPorts(), memory: cfg.Memory}
	sb.onEnd(sb.closeMemory, sb.closeMemory)
	defer func() {
		if err != nil {
			err = errors.Join(err, sb.Close())
		}
	}()
	steps := []func(context.Context, Config) error{
		sb.makeCgroup, sb.makeNetns, sb.listen, sb.fence, sb.makeNamespaces,
	}
	for _, step := range steps {
		if err := step(ctx, cfg); err != nil {
			return nil, fmt.Errorf("create sandbox %s: %w", cfg.Name, err)
		}
	}
	return sb, nil
}

// Close kills every process of the sandbox and removes all of it. It goes on
// after an error, and may be called more than once.
func (sb *Sandbox) Close() error {
	return sb.end(func(e end) func() error { return e.remove })
}

// Detach ends the listeners and the commands that were started since Create or Adopt,
// and leaves the rest to be adopted. The hooks go on: whatever lives connects to
// nothing. Without an anchor it is Close.
func (sb *Sandbox) Detach() error {
	return sb.end(func(e end) func() error { return e.leave })
}

func (sb *Sandbox) end(how func(end) func() error) error {
	var errs []error
	for len(sb.ends) > 0 {
		last := len(sb.ends) - 1
		if do := how(sb.ends[last]); do != nil {
			errs = append(errs, do())
		}
		sb.ends = sb.ends[:last]
	}
	return errors.Join(errs...)
}

// Kill ends every process of the sandbox, and leaves the rest as it is.
func (sb *Sandbox) Kill() error {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	return sb.group.Kill(ctx)
}

func (sb *Sandbox) onEnd(remove, leave func() error) { sb.ends = append(sb.ends, end{remove, leave}) }

func (sb *Sandbox) makeCgroup(_ context.Context, cfg Config) (err error) {
	if sb.group, err = cgroup.Create(cfg.Cgroup); err != nil {
		return err
	}
	sb.onEnd(sb.removeCgroup, sb.group.Close)
	return nil
}

func (sb *Sandbox) removeCgroup() error {
	return errors.Join(sb.Kill(), sb.group.Remove(), sb.group.Close())
}

func (sb *Sandbox) makeNetns(context.Context, Config) (err error) {
	if sb.netns, err = netns.New(); err != nil {
		return err
	}
	sb.onEnd(sb.netns.Close, sb.netns.Close)
	if err := sb.netns.SetupLoopback(ownAddresses, slotRoutes); err != nil {
		return err
	}
	sb.cookie, err = sb.netns.Cookie()
	return err
}

// fence tells the hooks of the sandbox before any process of it exists.
func (sb *Sandbox) fence(context.Context, Config) error {
	if err := sb.datapath.AddSandbox(sb.entry()); err != nil {
		return err
	}
	sb.onEnd(sb.unfence, nil)
	return nil
}

func (sb *Sandbox) unfence() error { return sb.datapath.RemoveSandbox(sb.group.ID()) }

// makeNamespaces starts the init. Only then are the namespaces known whose
// programs get an identity: the launcher, which runs before, has none.
func (sb *Sandbox) makeNamespaces(ctx context.Context, cfg Config) (err error) {
	sb.space, err = launch.Start(ctx, launch.Config{
		Name: cfg.Name, Netns: sb.netns, Cgroup: sb.group.File(), Visible: cfg.Visible,
		User: cfg.User, Files: cfg.Files, LandlockRequired: cfg.LandlockRequired,
		Anchor: cfg.Anchor, Memory: cfg.Memory,
	})
	if err != nil {
		return err
	}
	sb.onEnd(sb.space.Close, sb.space.Detach)
	return sb.datapath.UpdateSandbox(sb.entry())
}

func (sb *Sandbox) entry() datapath.Sandbox {
	entry := datapath.Sandbox{
		CgroupID:    sb.group.ID(),
		NetnsCookie: sb.cookie,
		Capture:     sb.ports.capture,
		DNS:         sb.ports.dns,
		Proxy:       sb.ports.proxy,
	}
	if sb.space != nil {
		// Namespace inode numbers are 32 bits wide in the kernel.
		entry.MountNS, entry.UserNS = uint32(sb.space.MountNS()), uint32(sb.space.UserNS())
	}
	return entry
}

// Name returns the sandbox's name.
func (sb *Sandbox) Name() string { return sb.name }

// CgroupID returns the id by which the hooks know the sandbox.
func (sb *Sandbox) CgroupID() uint64 { return sb.group.ID() }

// NetnsCookie returns the cookie of its network namespace.
func (sb *Sandbox) NetnsCookie() uint64 { return sb.cookie }

// Listeners returns the agent's listeners. They are closed with the sandbox.
func (sb *Sandbox) Listeners() *Listeners { return &sb.listeners }

// Root returns the sandbox's root directory; it stays the sandbox's.
func (sb *Sandbox) Root() *os.File { return sb.space.Root() }

// Warnings returns what could not be done of Config.Files.
func (sb *Sandbox) Warnings() []string { return sb.space.Warnings() }

// Exec starts a command in the sandbox.
func (sb *Sandbox) Exec(ctx context.Context, command launch.Command) (*launch.Process, error) {
	return sb.space.Exec(ctx, command)
}

// Done is closed when the sandbox's init has ended, and every process with it.
func (sb *Sandbox) Done() <-chan struct{} { return sb.space.Done() }
