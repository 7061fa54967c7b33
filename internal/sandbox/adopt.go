package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/datapath"
	"github.com/ringfence/ringfence/internal/launch"
)

// State is what has to be kept of a sandbox, by whoever keeps its configuration, so
// that another agent can adopt it. It is known as soon as the sandbox is made, and
// does not change.
type State struct {
	CgroupID    uint64         `json:"cgroup_id"`
	NetnsCookie uint64         `json:"netns_cookie"`
	Namespaces  launch.Numbers `json:"namespaces"`
}

// ErrLost is returned for a sandbox that cannot be adopted, now or later: it has ended,
// or what is there is not what was recorded. All that is left to do is Remove.
var ErrLost = errors.New("the sandbox is lost")

const (
	// listenTimeout bounds the wait for an agent that is just ending to let go of its
	// listeners.
	listenTimeout = 5 * time.Second
	listenPause   = 5 * time.Millisecond
)

// State returns what Adopt must be given.
func (sb *Sandbox) State() State {
	return State{CgroupID: sb.group.ID(), NetnsCookie: sb.cookie, Namespaces: sb.space.Numbers()}
}

// Adopt takes over a sandbox that another agent has made with the same name, cgroup and
// anchor, and which is no more. Its processes, the hooks' entry and all that the hooks
// remember of it stay as they are; the listeners are new ones, on the same ports. Of
// Config that is all which counts.
//
// An error leaves everything as it was, fenced and without an answer. It is ErrLost
// where the sandbox cannot be adopted.
func Adopt(ctx context.Context, cfg Config, state State) (_ *Sandbox, err error) {
	sb := &Sandbox{name: cfg.Name, datapath: cfg.Datapath}
	defer func() {
		if err != nil {
			err = errors.Join(err, sb.Detach())
		}
	}()
	steps := []func(context.Context, Config, State) error{
		sb.openCgroup, sb.adoptNamespaces, sb.recognise, sb.listenAgain,
	}
	for _, step := range steps {
		if err := step(ctx, cfg, state); err != nil {
			return nil, fmt.Errorf("adopt sandbox %s: %w", cfg.Name, err)
		}
	}
	// From here on it is removed as one that was made here.
	sb.onEnd(sb.unfence, nil)
	sb.onEnd(func() error { return errors.Join(sb.Kill(), sb.space.Close()) }, nil)
	return sb, nil
}

func (sb *Sandbox) openCgroup(_ context.Context, cfg Config, state State) (err error) {
	if sb.group, err = cgroup.Open(cfg.Cgroup); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(ErrLost, err)
		}
		return err
	}
	sb.onEnd(sb.removeCgroup, sb.group.Close)
	if sb.group.ID() != state.CgroupID {
		return fmt.Errorf("open cgroup: %w: its id is %d, recorded %d", ErrLost, sb.group.ID(), state.CgroupID)
	}
	return nil
}

func (sb *Sandbox) adoptNamespaces(ctx context.Context, cfg Config, state State) error {
	adopted, err := launch.Adopt(ctx, launch.AdoptConfig{
		Anchor: cfg.Anchor, Cgroup: sb.group.File(), Numbers: state.Namespaces,
	})
	if errors.Is(err, launch.ErrGone) || errors.Is(err, launch.ErrForeign) {
		err = errors.Join(ErrLost, err)
	}
	if err != nil {
		return err
	}
	sb.netns, sb.space, sb.memory = adopted.Netns, adopted.Namespaces, adopted.Memory
	sb.onEnd(sb.netns.Close, sb.netns.Close)
	sb.onEnd(sb.closeMemory, sb.closeMemory)
	sb.onEnd(nil, sb.space.Detach)
	return nil
}

// recognise looks at what only all parts together show: that the namespaces are those
// of this cgroup, and that the hooks fence both as one.
func (sb *Sandbox) recognise(_ context.Context, _ Config, state State) (err error) {
	if sb.cookie, err = sb.netns.Cookie(); err != nil {
		return err
	}
	if sb.cookie != state.NetnsCookie {
		return fmt.Errorf("%w: the cookie of its network namespace is %d, recorded %d", ErrLost, sb.cookie, state.NetnsCookie)
	}
	procs, err := sb.group.Procs()
	if err != nil {
		return err
	}
	if !slices.Contains(procs, strconv.Itoa(sb.space.InitPID())) {
		return fmt.Errorf("%w: its init is not in its cgroup", ErrLost)
	}
	known, err := sb.datapath.Sandbox(sb.group.ID())
	if err != nil {
		if errors.Is(err, datapath.ErrNotFound) {
			err = errors.Join(ErrLost, err)
		}
		return err
	}
	// Of another build it may have other ports, which are taken then.
	sb.ports = ports{known.Capture, known.DNS, known.Proxy}
	if want := sb.entry(); known != want {
		return fmt.Errorf("%w: the hooks know %+v and not %+v", ErrLost, known, want)
	}
	return nil
}

// listenAgain waits where the ports are still taken: nobody but an agent can have them,
// and one that was killed lets go of them a moment after it is seen to be dead.
func (sb *Sandbox) listenAgain(ctx context.Context, _ Config, _ State) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	for {
		err := sb.openListeners()
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		sb.ends = sb.ends[:len(sb.ends)-1]
		closed := sb.listeners.close()
		sb.listeners = Listeners{}
		select {
		case <-ctx.Done():
			return errors.Join(err, closed)
		case <-time.After(listenPause):
		}
	}
}

// Memory returns the file of Config.Memory, of the agent that has made the sandbox, or
// nil. It is closed with the sandbox.
func (sb *Sandbox) Memory() *os.File { return sb.memory }

func (sb *Sandbox) closeMemory() error {
	if sb.memory == nil {
		return nil
	}
	return sb.memory.Close()
}

// Remove removes what there is of a sandbox that nobody serves: its processes, and only
// then its entry in the hooks, its cgroup and its anchor. Whatever is missing is no
// error. Besides the cgroup's own id, entries of other ids that it had are removed.
func Remove(ctx context.Context, cfg Config, ids ...uint64) error {
	group, err := cgroup.Open(cfg.Cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if group != nil {
		defer group.Close()
		err = group.Kill(ctx)
		ids = append(ids, group.ID())
	}
	if err != nil {
		return fmt.Errorf("remove sandbox %s: %w", cfg.Name, err) // what lives stays fenced
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, cfg.Datapath.RemoveSandbox(id))
	}
	if group != nil {
		errs = append(errs, group.Remove())
	}
	if err := os.Remove(cfg.Anchor); cfg.Anchor != "" && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", cfg.Name, err)
	}
	return nil
}
