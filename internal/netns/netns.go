// Package netns makes network namespaces, works inside them, and returns.
//
// A sandbox's namespace has a loopback device and nothing else; the listeners of
// the agent live in it while the agent does not. A namespace is held by an open
// descriptor and never found through another process's /proc. What the sockets
// made here carry, and what a sandbox is, is not known here. Of what ships,
// netlink is imported nowhere else.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Handle is a network namespace, kept alive by an open descriptor. It is safe
// for concurrent use until Close.
type Handle struct {
	file  *os.File
	inode uint64
}

// own is the calling thread's namespace. The path is that of the thread itself;
// no other task's /proc is ever opened.
const own = "/proc/thread-self/ns/net"

// ErrNotNetns is returned for a file that is no network namespace.
var ErrNotNetns = errors.New("not a network namespace")

// New makes a network namespace. Its loopback device is down.
func New() (*Handle, error) {
	var h *Handle
	err := onThread(func() (stay bool, err error) {
		home, err := Current()
		if err != nil {
			return true, err
		}
		defer home.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("make network namespace: %w", err)
		}
		h, err = Current()
		return home.Enter() == nil, err
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Current returns the namespace of the calling thread.
func Current() (*Handle, error) { return Open(own) }

// Open returns the namespace that a file stands for, such as a bind mount of it.
func Open(path string) (*Handle, error) {
	// O_NONBLOCK, so that a FIFO put in the file's place cannot hold us.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return FromFile(f)
}

// FromFile returns the namespace that an open file stands for. The file is the
// handle's then, or closed.
func FromFile(f *os.File) (*Handle, error) {
	h, err := fromFile(f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return h, nil
}

func fromFile(f *os.File) (*Handle, error) {
	// NS_GET_NSTYPE fails for all but namespaces.
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return nil, fmt.Errorf("open %s: %w", f.Name(), ErrNotNetns)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat network namespace: %w", err)
	}
	return &Handle{file: f, inode: st.Ino}, nil
}

// File returns the open namespace. It stays the handle's.
func (h *Handle) File() *os.File { return h.file }

// Inode returns the number by which the kernel shows the namespace.
func (h *Handle) Inode() uint64 { return h.inode }

// Close lets go of the namespace. It lives on while a task, a socket or a mount
// holds it.
func (h *Handle) Close() error { return h.file.Close() }

// Cookie returns the number by which hooks know the namespace: unlike the inode
// it is never used twice while the machine runs.
func (h *Handle) Cookie() (uint64, error) {
	var cookie uint64
	err := h.Do(func() (err error) {
		cookie, err = currentCookie()
		return err
	})
	return cookie, err
}

// currentCookie returns the cookie of the calling thread's namespace.
func currentCookie() (uint64, error) {
	// Any socket tells it; this kind needs no address family module.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read netns cookie (Linux 5.14 or newer): %w", err)
	}
	return cookie, nil
}

// Do runs fn inside the namespace, on a thread of its own, and returns its error.
// What fn starts in other goroutines runs outside. A thread that cannot return
// home is thrown away.
func (h *Handle) Do(fn func() error) error {
	return onThread(func() (stay bool, err error) {
		home, err := Current()
		if err != nil {
			return true, err
		}
		defer home.Close()
		if err := h.Enter(); err != nil {
			return true, err
		}
		// Deferred, so that the thread goes home when fn panics or calls Goexit.
		defer func() { stay = home.Enter() == nil }()
		return false, fn()
	})
}

// Enter moves the calling thread into the namespace, and leaves the way back to
// the caller, who must have locked the thread. Do is for everyone who wants to
// return.
func (h *Handle) Enter() error {
	if err := unix.Setns(int(h.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// onThread runs fn on a locked thread of its own. Where fn says that the thread
// cannot stay, it ends with its goroutine: a goroutine that exits while locked
// takes its thread with it.
func onThread(fn func() (stay bool, err error)) error {
	result := make(chan error, 1)
	go func() {
		stay, err := false, errors.New("the function did not return")
		defer func() { result <- err }()
		runtime.LockOSThread()
		if stay, err = fn(); stay {
			runtime.UnlockOSThread()
		}
	}()
	return <-result
}
