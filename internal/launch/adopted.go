package launch

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// initHandle is the agent's hold of an init: of its own child, or of one that an
// agent before it has started.
type initHandle interface {
	pid() int
	done() <-chan struct{}
	kill()  // and wait for its end, where it is this agent's to reap
	leave() // let it live
}

// adoptedInit is an init that another agent has started. It is not this one's to
// reap: that is up to whoever took in the orphan.
type adoptedInit struct {
	process int
	pidfd   *os.File
	raw     syscall.RawConn // of pidfd
	ended   chan struct{}
}

// holdInit holds a process, so that its number is not mistaken for another's.
func holdInit(process int) (*adoptedInit, error) {
	// Non-blocking: the runtime then waits for it beside its sockets, without a thread.
	fd, err := unix.PidfdOpen(process, unix.O_NONBLOCK)
	if err != nil {
		if err == unix.ESRCH {
			err = errors.Join(ErrGone, err)
		}
		return nil, fmt.Errorf("hold init: %w", err)
	}
	in := &adoptedInit{process: process, pidfd: os.NewFile(uintptr(fd), "init"), ended: make(chan struct{})}
	if in.raw, err = in.pidfd.SyscallConn(); err != nil {
		_ = in.pidfd.Close()
		return nil, fmt.Errorf("hold init: %w", err)
	}
	go in.wait()
	return in, nil
}

// wait is the goroutine that sees the end of init. It ends with leave, too.
func (in *adoptedInit) wait() {
	if in.raw.Read(isOver) == nil { // else the file was closed
		close(in.ended)
	}
}

// isOver reports whether the process of a pidfd has ended.
func isOver(pidfd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents != 0
}

// hasEnded reports whether it has: without a wait for the goroutine that will say so.
func (in *adoptedInit) hasEnded() (over bool) {
	err := in.raw.Control(func(fd uintptr) { over = isOver(fd) })
	return over || err != nil
}

func (in *adoptedInit) pid() int { return in.process }

func (in *adoptedInit) done() <-chan struct{} { return in.ended }

// kill does not wait for the end. The kernel lets an init go only when each process of
// its namespace was reaped, and those that an agent left when it died are in the care
// of whoever is the machine's, or the container's, first process. That all of them are
// dead the cgroup tells sooner.
func (in *adoptedInit) kill() {
	_ = in.raw.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	in.leave()
}

func (in *adoptedInit) leave() { _ = in.pidfd.Close() }
