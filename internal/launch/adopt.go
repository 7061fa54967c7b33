package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/netns"
)

// Numbers tell the namespaces of a sandbox from all others that there are: an agent
// that adopts it must find the same again. They are plain data, to be stored.
type Numbers struct {
	Mount uint64 `json:"mount"`
	PID   uint64 `json:"pid"`
	Net   uint64 `json:"net"`
	User  uint64 `json:"user"`
	// Fenced: commands are under a ruleset of Landlock, and none may be without.
	Fenced bool `json:"fenced,omitempty"`
}

// AdoptConfig says which sandbox another agent has left.
type AdoptConfig struct {
	// Anchor is where its init answers.
	Anchor string
	// Cgroup is the open directory of its cgroup. It stays the caller's and must
	// outlive the namespaces.
	Cgroup *os.File
	// Numbers are those of its Namespaces, when it was made.
	Numbers Numbers
}

// Adopted is what there is of a sandbox that another agent has started.
type Adopted struct {
	*Namespaces
	// Netns is its network namespace, the caller's to close. What belongs to it
	// beside its number (which the kernel may use again) is the caller's to check.
	Netns *netns.Handle
	// Memory is the file of Config.Memory, or nil. It is the caller's to close.
	Memory *os.File
}

// ownUserNS is the agent's user namespace, which is that of its sandboxes.
const ownUserNS = "/proc/self/ns/user"

// Adopt takes over the namespaces that an agent has left which is no more. ErrGone
// means that their init has ended, ErrForeign that they are not those that were
// recorded; after either the sandbox cannot be adopted, ever. On an error everything
// is left as it was.
//
// Nothing that init hands over is taken for what it is called: it must be of the
// right kind and have the recorded number, and the root directory is opened by the
// agent. So the most that another process on the anchor can do is to be refused.
func Adopt(ctx context.Context, config AdoptConfig) (_ *Adopted, err error) {
	h, err := reach(ctx, config.Anchor)
	if err != nil {
		return nil, err
	}
	n := &Namespaces{
		cgroup: config.Cgroup, anchor: config.Anchor, init: h.init, attached: map[*child]struct{}{},
	}
	a := &Adopted{Namespaces: n, Memory: h.take(memoryFile)}
	defer func() {
		h.init = nil // it is a's
		h.close()
		if err != nil {
			a.leave()
		}
	}()
	if err := n.hold(h); err != nil {
		return nil, err
	}
	if a.Netns, err = netnsOf(h); err != nil {
		return nil, err
	}
	n.numbers.Net = a.Netns.Inode()
	if n.numbers.User, err = userNSOf(n.mount); err != nil {
		return nil, err
	}
	if err := n.recognise(config.Numbers); err != nil {
		return nil, err
	}
	if n.root, err = openRoot(n.mount); err != nil {
		return nil, err
	}
	n.spawner, err = newSpawner(a.Netns.Enter, joins(n.pid, unix.CLONE_NEWPID),
		joins(h.files[ipcFile], unix.CLONE_NEWIPC), joins(h.files[utsFile], unix.CLONE_NEWUTS))
	if err != nil {
		return nil, err
	}
	return a, nil
}

// leave undoes an adoption that did not come to its end.
func (a *Adopted) leave() {
	if a.spawner != nil {
		a.spawner.stop()
	}
	a.init.leave()
	closeAll([]*os.File{a.mount, a.pid, a.root, a.ruleset, a.Memory})
	if a.Netns != nil {
		_ = a.Netns.Close()
	}
}

// recognise compares what was handed over with what was recorded, and init with
// PID 1 of its pid namespace where the kernel tells.
func (n *Namespaces) recognise(want Numbers) error {
	if n.numbers != want {
		return fmt.Errorf("recognise namespaces: %w: %+v, recorded %+v", ErrForeign, n.numbers, want)
	}
	own, err := inodeOf(ownUserNS)
	if err != nil {
		return err
	}
	if own != want.User {
		return fmt.Errorf("recognise namespaces: %w: they are of another user namespace than the agent", ErrForeign)
	}
	first, err := firstOf(n.pid)
	if errors.Is(err, unix.ESRCH) {
		err = errors.Join(ErrGone, err)
	}
	if err != nil {
		return fmt.Errorf("recognise init: %w", err)
	}
	if first != 0 && first != n.init.pid() {
		return fmt.Errorf("recognise init: %w: process %d answers and not %d", ErrForeign, n.init.pid(), first)
	}
	return nil
}

// getTGIDFromPIDNS is NS_GET_TGID_FROM_PIDNS of Linux 6.11, which x/sys does not have.
const getTGIDFromPIDNS = 0x8004b707

// firstOf returns the process that is PID 1 of a pid namespace; 0 where the kernel
// does not tell.
func firstOf(pidNS *os.File) (int, error) {
	pid, _, e := unix.Syscall(unix.SYS_IOCTL, pidNS.Fd(), getTGIDFromPIDNS, 1)
	switch e {
	case 0:
		return int(pid), nil
	case unix.ENOTTY, unix.EINVAL:
		return 0, nil
	}
	return 0, e
}

func netnsOf(h *handed) (*netns.Handle, error) {
	file := h.take(netFile)
	if _, err := numberOf(file, unix.CLONE_NEWNET); err != nil {
		closeAll([]*os.File{file})
		return nil, err
	}
	return netns.FromFile(file)
}

// joins returns what moves the calling thread into a namespace.
func joins(file *os.File, kind int) func() error {
	return func() error {
		if _, err := numberOf(file, kind); err != nil {
			return err
		}
		if err := unix.Setns(int(file.Fd()), kind); err != nil {
			return fmt.Errorf("join namespaces: %w", err)
		}
		return nil
	}
}

// openRoot opens the root directory of a mount namespace. The thread that goes there
// does not come back.
func openRoot(mount *os.File) (root *os.File, err error) {
	err = onLostThread(func() error {
		if err := enterMountNS(int(mount.Fd())); err != nil {
			return err
		}
		root, err = os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open root of the sandbox: %w", err)
	}
	return root, nil
}

// onLostThread runs fn on a thread that ends afterwards. The main thread cannot end,
// and is held until another has been found.
func onLostThread(fn func() error) error {
	result := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done := make(chan struct{})
			go func() { defer close(done); run() }()
			<-done
			runtime.UnlockOSThread()
			return
		}
		result <- fn()
	}
	go run()
	return <-result
}
