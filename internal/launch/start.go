package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/netns"
	"github.com/ringfence/ringfence/internal/rootfs"
)

// Config says what a sandbox's namespaces are made of.
type Config struct {
	// Name is the sandbox's name, and its host name.
	Name string
	// Netns is the network namespace, ready to be used. It stays the caller's.
	Netns *netns.Handle
	// Cgroup is the open directory of the cgroup into which every process is
	// cloned. It stays the caller's and must outlive the namespaces.
	Cgroup *os.File
	// Visible are absolute paths that stay as they are on the host where they lie
	// below a directory that the sandbox gets its own of (/tmp, /run …), such as
	// the working directory.
	Visible []string
	// User is who the commands run as: directories that are made are this user's,
	// and symbolic links that it could have put somewhere are not trusted.
	User rootfs.User
	// Files restricts what the commands may use of the file system; nil does not.
	Files *Files
	// LandlockRequired refuses to start where Landlock cannot do all that Files says.
	LandlockRequired bool
	// Anchor is the path of a socket by which another agent finds the sandbox again
	// (Adopt), in a directory of root's alone. With it init, and whatever is not a
	// command of this agent's, outlives the agent; without it nothing does.
	Anchor string
	// Memory is a file that init holds for that agent, next to what is the sandbox's;
	// nil for none. It stays the caller's.
	Memory *os.File
}

// Namespaces are the running namespaces of a sandbox. They end with Close, when its
// init dies, or with the agent, unless they have an anchor.
type Namespaces struct {
	cgroup  *os.File
	spawner *spawner
	init    initHandle
	anchor  string // empty for none

	mount, pid, root *os.File
	numbers          Numbers
	ruleset          *os.File // of Landlock; nil where files are not restricted
	refused          string   // what it must refuse
	warnings         []string

	mu     sync.Mutex
	closed bool
	spare  *child // a sandbox-exec that waits for the first command; nil once used
	// attached are the commands that end with this agent.
	attached map[*child]struct{}
	execs    sync.WaitGroup
	// dialers are looked up and started one after the other, see there.
	dialers dialers
}

// Start makes the namespaces, and returns when init has built the sandbox's view
// of the file system and has dropped its privileges. An error is a *StepError
// where a step in the child failed; nothing is left then.
func Start(ctx context.Context, config Config) (_ *Namespaces, err error) {
	if config.Files != nil && config.User.UID == 0 {
		return nil, ErrRoot
	}
	spawner, err := newSpawner(config.Netns.Enter)
	if err != nil {
		return nil, err
	}
	n := &Namespaces{cgroup: config.Cgroup, spawner: spawner, anchor: config.Anchor, attached: map[*child]struct{}{}}
	defer func() {
		if err != nil {
			_ = n.Close()
		}
	}()
	n.numbers.Net = config.Netns.Inode()
	if n.numbers.User, err = inodeOf(ownUserNS); err != nil {
		return nil, err
	}
	// Scopes bind commands to those of this agent: a later one's could not signal them.
	init, err := spawner.startInit(config.Cgroup, config.Anchor == "")
	if err != nil {
		return nil, err
	}
	n.init = init
	if err := config.instruct(init); err != nil {
		return nil, init.fault(err)
	}
	// The first command's process loads while init works: both take most of their
	// time to start the Go runtime.
	if n.spare, err = spawner.startExec(config.Cgroup); err != nil {
		return nil, init.fault(err)
	}
	if err := n.ready(ctx, init); err != nil {
		return nil, err
	}
	return n, nil
}

// instruct tells init what to do.
func (config *Config) instruct(init *child) error {
	order := initOrder{
		Name: config.Name, Visible: byteStrings(config.Visible),
		User: config.User, Files: config.Files.order(), Required: config.LandlockRequired,
		Anchored: config.Anchor != "",
	}
	if !order.Anchored {
		return sendOrder(init.conn, order)
	}
	anchor, err := bindAnchor(config.Anchor)
	if err != nil {
		return err
	}
	defer anchor.Close()
	files := []*os.File{anchor}
	if config.Memory != nil {
		files = append(files, config.Memory)
	}
	return sendOrder(init.conn, order, files...)
}

// ready takes what init sends when it is done: its namespaces, its root directory,
// and the ruleset where it has made one.
func (n *Namespaces) ready(ctx context.Context, init *child) error {
	stop := context.AfterFunc(ctx, func() { _ = init.process.Kill() })
	defer stop()
	r, files, err := receiveAny(init.conn)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("start sandbox: %w", context.Cause(ctx))
		}
		if errors.Is(err, io.EOF) {
			return &StepError{Step: "start init", Err: errors.New("it ended without a word"), Code: ExitRingfence}
		}
		return err
	}
	h := &handed{reply: r}
	if h.files, err = r.named(files); err != nil {
		return err
	}
	defer h.close()
	n.root = h.take(rootFile)
	return n.hold(h)
}

// hold takes what an init has handed over, and looks whether it is what it is
// called.
func (n *Namespaces) hold(h *handed) (err error) {
	n.refused, n.warnings = h.reply.Refused, h.reply.Warnings
	n.mount, n.pid, n.ruleset = h.take(mountFile), h.take(pidFile), h.take(rulesetFile)
	n.numbers.Fenced = n.ruleset != nil
	if n.numbers.Mount, err = numberOf(n.mount, unix.CLONE_NEWNS); err != nil {
		return err
	}
	n.numbers.PID, err = numberOf(n.pid, unix.CLONE_NEWPID)
	return err
}

// fault prefers what init says to an error that its death caused.
func (c *child) fault(err error) error {
	select {
	case <-c.ended:
	default:
		return err
	}
	var step *StepError
	if _, said := receiveReply(c.conn, 0); errors.As(said, &step) {
		return step
	}
	return err
}

// MountNS returns the number of the mount namespace, as nsfs shows it.
func (n *Namespaces) MountNS() uint64 { return n.numbers.Mount }

// PIDNS returns the number of the pid namespace.
func (n *Namespaces) PIDNS() uint64 { return n.numbers.PID }

// UserNS returns the number of the user namespace, which is the agent's: the
// sandbox has none of its own and may make none.
func (n *Namespaces) UserNS() uint64 { return n.numbers.User }

// Numbers returns what an agent that adopts the sandbox must know of it.
func (n *Namespaces) Numbers() Numbers { return n.numbers }

// Root returns the sandbox's root directory, opened with O_PATH inside: a path
// resolved beneath it (RESOLVE_IN_ROOT) names what the sandbox sees. It stays the
// namespaces'.
func (n *Namespaces) Root() *os.File { return n.root }

// Warnings returns what could not be done of Config.Files, one sentence each.
func (n *Namespaces) Warnings() []string { return n.warnings }

// InitPID returns the process id of the sandbox's init, as the agent sees it.
func (n *Namespaces) InitPID() int { return n.init.pid() }

// Done is closed when init has ended, and every process of the sandbox with it.
func (n *Namespaces) Done() <-chan struct{} { return n.init.done() }

// Close kills init, and so every process of the sandbox, waits until they are
// gone, and lets go of everything. Of an adopted sandbox it waits for what this agent
// has started alone: kill the cgroup first. It may be called more than once.
func (n *Namespaces) Close() error {
	if !n.close(initHandle.kill) { // the kernel kills the rest of the pid namespace
		return nil
	}
	n.execs.Wait()
	if n.anchor == "" {
		return nil
	}
	if err := os.Remove(n.anchor); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove anchor: %w", err)
	}
	return nil
}

// Detach ends the commands that this agent has started and lets go of the rest,
// which lives on for another agent to adopt. Without an anchor it is Close.
func (n *Namespaces) Detach() error {
	if n.anchor == "" {
		return n.Close()
	}
	n.close(initHandle.leave)
	return nil
}

// close lets go of everything, of init as it is told. It reports whether it was the
// first to do so.
func (n *Namespaces) close(end func(initHandle)) bool {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return false
	}
	n.closed = true
	spare, attached := n.spare, slices.Collect(maps.Keys(n.attached))
	n.spare = nil
	n.mu.Unlock()

	if n.init != nil {
		end(n.init)
	}
	if spare != nil {
		spare.kill()
	}
	// They would get a signal from the kernel when the spawner's thread ends, unless
	// they have refused it.
	for _, c := range attached {
		c.kill()
	}
	n.spawner.stop()
	closeAll([]*os.File{n.mount, n.pid, n.root, n.ruleset})
	return true
}
