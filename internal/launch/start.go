package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
}

// Namespaces are the running namespaces of a sandbox. They end with Close, with
// the agent, or when its init dies.
type Namespaces struct {
	cgroup  *os.File
	spawner *spawner
	init    *child

	mount, pid, root *os.File
	mountNS, pidNS   uint64
	userNS           uint64
	ruleset          *os.File // of Landlock; nil where files are not restricted
	refused          string   // what it must refuse
	warnings         []string

	mu     sync.Mutex
	closed bool
	spare  *child // a sandbox-exec that waits for the first command; nil once used
	// dialers are looked up and started one after the other, see there.
	dialers dialers
	execs   sync.WaitGroup
}

// Start makes the namespaces, and returns when init has built the sandbox's view
// of the file system and has dropped its privileges. An error is a *StepError
// where a step in the child failed; nothing is left then.
func Start(ctx context.Context, config Config) (_ *Namespaces, err error) {
	if config.Files != nil && config.User.UID == 0 {
		return nil, ErrRoot
	}
	spawner, err := newSpawner(config.Netns)
	if err != nil {
		return nil, err
	}
	n := &Namespaces{cgroup: config.Cgroup, spawner: spawner}
	defer func() {
		if err != nil {
			_ = n.Close()
		}
	}()
	if n.userNS, err = inodeOf("/proc/self/ns/user"); err != nil {
		return nil, err
	}
	if n.init, err = spawner.startInit(config.Cgroup); err != nil {
		return nil, err
	}
	if err := sendOrder(n.init.conn, initOrder{
		Name: config.Name, Visible: byteStrings(config.Visible),
		User: config.User, Files: config.Files.order(), Required: config.LandlockRequired,
	}); err != nil {
		return nil, n.initFault(err)
	}
	// The first command's process loads while init works: both take most of their
	// time to start the Go runtime.
	if n.spare, err = spawner.startExec(config.Cgroup); err != nil {
		return nil, n.initFault(err)
	}
	if err := n.ready(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// ready takes what init sends when it is done: its mount namespace, its pid
// namespace, its root directory, and the ruleset where it has made one.
func (n *Namespaces) ready(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = n.init.process.Kill() })
	defer stop()
	r, files, err := receiveAny(n.init.conn)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("start sandbox: %w", context.Cause(ctx))
		}
		if errors.Is(err, io.EOF) {
			return &StepError{Step: "start init", Err: errors.New("it ended without a word"), Code: ExitRingfence}
		}
		return err
	}
	switch len(files) {
	case 4:
		n.ruleset = files[3]
	case 3:
	default:
		closeAll(files)
		return fmt.Errorf("receive reply: %d descriptors instead of 3 or 4", len(files))
	}
	n.mount, n.pid, n.root = files[0], files[1], files[2]
	n.refused, n.warnings = r.Refused, r.Warnings
	if n.mountNS, err = inodeOfFile(n.mount); err != nil {
		return err
	}
	n.pidNS, err = inodeOfFile(n.pid)
	return err
}

// initFault prefers what init says to an error that its death caused.
func (n *Namespaces) initFault(err error) error {
	select {
	case <-n.init.ended:
	default:
		return err
	}
	var step *StepError
	if _, said := receiveReply(n.init.conn, 0); errors.As(said, &step) {
		return step
	}
	return err
}

// MountNS returns the number of the mount namespace, as nsfs shows it.
func (n *Namespaces) MountNS() uint64 { return n.mountNS }

// PIDNS returns the number of the pid namespace.
func (n *Namespaces) PIDNS() uint64 { return n.pidNS }

// UserNS returns the number of the user namespace, which is the agent's: the
// sandbox has none of its own and may make none.
func (n *Namespaces) UserNS() uint64 { return n.userNS }

// Root returns the sandbox's root directory, opened with O_PATH inside: a path
// resolved beneath it (RESOLVE_IN_ROOT) names what the sandbox sees. It stays the
// namespaces'.
func (n *Namespaces) Root() *os.File { return n.root }

// Warnings returns what could not be done of Config.Files, one sentence each.
func (n *Namespaces) Warnings() []string { return n.warnings }

// InitPID returns the process id of the sandbox's init, as the agent sees it.
func (n *Namespaces) InitPID() int { return n.init.process.Pid }

// Done is closed when init has ended, and every process of the sandbox with it.
func (n *Namespaces) Done() <-chan struct{} { return n.init.ended }

// Close kills init, and so every process of the sandbox, waits until they are
// gone, and lets go of everything. It may be called more than once.
func (n *Namespaces) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	spare := n.spare
	n.spare = nil
	n.mu.Unlock()

	if n.init != nil {
		n.init.kill() // the kernel kills the rest of the pid namespace
	}
	if spare != nil {
		spare.kill()
	}
	n.execs.Wait()
	n.spawner.stop()
	closeAll([]*os.File{n.mount, n.pid, n.root, n.ruleset})
	return nil
}

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat namespace %s: %w", path, err)
	}
	return st.Ino, nil
}

func inodeOfFile(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat namespace: %w", err)
	}
	return st.Ino, nil
}
