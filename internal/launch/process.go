package launch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/tty"
)

// Process is a running command.
type Process struct {
	PID int // as the agent sees it
	// Terminal is the master of the command's pty, or nil: reads of it have deadlines,
	// and end with EIO when nothing holds the other end. The caller closes it.
	Terminal *os.File

	child    *child
	control  *net.UnixConn // of a builtin; closed when it has ended
	followed chan struct{} // closed when a builtin has said its last; nil for others
}

// follow takes over the socket of a builtin until that has ended. What a process that
// has ended has said is there already: whoever else was given the socket is not waited
// for.
func (p *Process) follow(conn *net.UnixConn, command *Command) {
	p.control, p.followed = conn, make(chan struct{})
	go func() {
		<-p.child.ended
		_ = conn.SetReadDeadline(time.Now().Add(flushTimeout))
	}()
	go func() {
		defer close(p.followed)
		if command.OnTransfer != nil {
			readTransfers(conn, command.OnTransfer)
		}
		if command.Builtin == BuiltinSFTP {
			_ = conn.Close() // nobody listens, and it need not wait for that
		}
		<-p.child.ended
		_ = conn.Close()
	}()
}

// Status is how a command ended: with an exit status, or by a signal.
type Status struct {
	Code   int
	Signal syscall.Signal // 0 where it exited
}

// ExitCode returns the status as a shell shows it: 128+n for a signal.
func (s Status) ExitCode() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return s.Code
}

// Wait waits for the command to end. When ctx ends first, the command runs on.
func (p *Process) Wait(ctx context.Context) (Status, error) {
	select {
	case <-p.child.ended:
	case <-ctx.Done():
		return Status{}, fmt.Errorf("wait for command: %w", context.Cause(ctx))
	}
	if p.followed != nil {
		select {
		case <-p.followed:
		case <-ctx.Done():
			return Status{}, fmt.Errorf("wait for command: %w", context.Cause(ctx))
		}
	}
	if p.child.err != nil {
		return Status{}, fmt.Errorf("wait for command: %w", p.child.err)
	}
	ws, ok := p.child.state.Sys().(syscall.WaitStatus)
	if !ok {
		return Status{}, errors.New("wait for command: no status")
	}
	if ws.Signaled() {
		return Status{Signal: ws.Signal()}, nil
	}
	return Status{Code: ws.ExitStatus()}, nil
}

// Signal sends a signal to the command's process group, which is the command and
// what it started without job control.
func (p *Process) Signal(sig syscall.Signal) error {
	// os.Process knows whether the process was reaped, so its pid is not another's.
	if err := p.child.process.Signal(syscall.Signal(0)); err != nil {
		return fmt.Errorf("signal command: %w", err)
	}
	if err := unix.Kill(-p.PID, sig); err != nil {
		return fmt.Errorf("signal command: %w", err)
	}
	return nil
}

// Resize sets the size of the command's terminal; what runs in it is told.
func (p *Process) Resize(size tty.Size) error {
	if p.Terminal == nil {
		return fmt.Errorf("resize terminal: %w", tty.ErrNotTerminal)
	}
	return tty.SetSize(p.Terminal, size)
}

// Ended is closed when the command has ended.
func (p *Process) Ended() <-chan struct{} { return p.child.ended }

// HangUp ends a command whose person has gone: it closes Terminal, whose session the
// kernel then hangs up, sends SIGHUP to the command's process group, and after grace
// kills that group if the command is still there. It returns when the command has
// ended.
//
// What has a session or a process group of its own and is not in front, or ignores
// SIGHUP, lives on, as with sshd: a tmux server, a daemon, what nohup started. It ends
// with the sandbox.
func (p *Process) HangUp(grace time.Duration) {
	p.closeTerminal()
	// SIGCONT, because a stopped process does not see the other.
	if p.Signal(unix.SIGHUP) == nil {
		_ = p.Signal(unix.SIGCONT)
	}
	after := time.NewTimer(grace)
	defer after.Stop()
	select {
	case <-p.child.ended:
	case <-after.C:
		_ = p.Signal(unix.SIGKILL)
		<-p.child.ended
	}
}

// StopReading ends the reads of Terminal when a bound for the last output has passed:
// what a command has left in the background may hold it open for ever. It is called
// when the command has ended. Streams that are pipes have Pipes.StopReading.
func (p *Process) StopReading() {
	if p.Terminal != nil {
		_ = p.Terminal.SetReadDeadline(time.Now().Add(flushTimeout))
	}
}

func (p *Process) closeTerminal() {
	if p != nil && p.Terminal != nil {
		_ = p.Terminal.Close()
	}
}

// pollable returns f as a file whose reads and writes do not hold a thread and have
// deadlines; f is closed.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("duplicate terminal: %w", err)
	}
	return os.NewFile(uintptr(fd), "pty master"), nil
}
