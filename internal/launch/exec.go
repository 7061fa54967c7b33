package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/tty"
)

// startTimeout bounds how long a command may take from the order to its execve.
const startTimeout = 30 * time.Second

// Command is what to run, as whom, and with what.
type Command struct {
	// Argv is the command and its arguments. A name without a slash is looked for
	// in the PATH of Env, inside the sandbox and as the user.
	Argv []string
	// Env is the whole environment (see Environment).
	Env []string
	// Dir is the working directory, which the user must be able to enter.
	Dir string

	UID, GID uint32
	Groups   []uint32

	// Stdio are the command's descriptors 0 to 2; they stay the caller's. None may
	// be a socket or a terminal of the host: SafeStdio sees to that. One that the
	// sandbox's terminal takes the place of may be nil.
	Stdio [3]*os.File
	// Terminal says which of 0 to 2 are the sandbox's terminal. With any, the
	// command gets a pty of the sandbox's own as its controlling terminal.
	Terminal [3]bool
	// Size is the terminal's first size.
	Size tty.Size
}

// execOrder is what the agent tells sandbox-exec. Its strings are bytes: paths,
// arguments and variables need not be UTF-8, and JSON would change them.
type execOrder struct {
	Argv     [][]byte `json:"argv"`
	Env      [][]byte `json:"env"`
	Dir      []byte   `json:"dir"`
	UID      uint32   `json:"uid"`
	GID      uint32   `json:"gid"`
	Groups   []uint32 `json:"groups"`
	Terminal [3]bool  `json:"terminal"`
	Size     tty.Size `json:"size"`
	Fenced   bool     `json:"fenced"`  // a ruleset comes with the order
	Refused  []byte   `json:"refused"` // what it must refuse
}

func (c *Command) order() (*execOrder, error) {
	if c.UID == 0 {
		return nil, ErrRoot
	}
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, fmt.Errorf("no command is named: %w", ErrBadCommand)
	}
	if !strings.HasPrefix(c.Dir, "/") {
		return nil, fmt.Errorf("working directory %q is not absolute: %w", c.Dir, ErrBadCommand)
	}
	for _, s := range append(append([]string{c.Dir}, c.Argv...), c.Env...) {
		if strings.ContainsRune(s, 0) {
			return nil, fmt.Errorf("%q holds a zero byte: %w", s, ErrBadCommand)
		}
	}
	return &execOrder{
		Argv: byteStrings(c.Argv), Env: byteStrings(c.Env), Dir: []byte(c.Dir),
		UID: c.UID, GID: c.GID, Groups: c.Groups,
		Terminal: c.Terminal, Size: c.Size,
	}, nil
}

// streams returns the descriptors to send. Where the terminal takes the place of
// one, anything harmless is sent.
func (c *Command) streams(null *os.File) ([3]*os.File, error) {
	streams := c.Stdio
	for i, f := range streams {
		switch {
		case c.Terminal[i]:
			streams[i] = null
		case f == nil:
			return streams, fmt.Errorf("descriptor %d is missing: %w", i, ErrBadCommand)
		case isSocket(f) || tty.IsTerminal(f):
			return streams, fmt.Errorf("descriptor %d is a socket or a terminal of the host: %w", i, ErrBadCommand)
		case isDirectory(f):
			// Every file of the host's could be reached from it, past the view.
			return streams, fmt.Errorf("descriptor %d is a directory: %w", i, ErrBadCommand)
		}
	}
	return streams, nil
}

func (c *Command) wantsTerminal() bool { return c.Terminal != [3]bool{} }

func byteStrings(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

// Exec starts a command, and returns when it has been executed: the process is
// the command then, with every privilege gone. An error is a *StepError where a
// step in the child failed; its Code is 126 or 127 where a shell's would be.
func (n *Namespaces) Exec(ctx context.Context, command Command) (*Process, error) {
	order, err := command.order()
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	streams, err := command.streams(null)
	if err != nil {
		return nil, err
	}
	c, err := n.takeChild()
	if err != nil {
		return nil, err
	}
	go n.release(c)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.process.Kill() })
	p, err := n.startCommand(c, order, streams, command.wantsTerminal())
	if !stop() && err == nil {
		err = fmt.Errorf("start command: %w", context.Cause(ctx))
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("start command: %w", context.Cause(ctx))
		}
		p.closeTerminal()
		c.kill()
		return nil, err
	}
	return p, nil
}

// takeChild returns a sandbox-exec that waits for its order: the one that was
// started ahead, or a new one.
func (n *Namespaces) takeChild() (*child, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, ErrClosed
	}
	c := n.spare
	n.spare = nil
	if c == nil {
		var err error
		if c, err = n.spawner.startExec(n.cgroup); err != nil {
			if errors.Is(err, unix.ENOMEM) { // what fork says in a pid namespace whose init is gone
				err = ErrClosed
			}
			return nil, err
		}
	}
	n.execs.Add(1)
	return c, nil
}

// release lets Close go on when the child has ended.
func (n *Namespaces) release(c *child) {
	<-c.ended
	n.execs.Done()
}

func (n *Namespaces) startCommand(c *child, order *execOrder, streams [3]*os.File, terminal bool) (*Process, error) {
	defer c.conn.Close()
	files := []*os.File{n.mount, streams[0], streams[1], streams[2]}
	if n.ruleset != nil {
		files = append(files, n.ruleset)
		order.Fenced, order.Refused = true, []byte(n.refused)
	}
	err := sendOrder(c.conn, order, files...)
	if errors.Is(err, unix.EPIPE) {
		return nil, ErrClosed // it waits for its order as long as the sandbox lives
	}
	if err != nil {
		return nil, err
	}
	p := &Process{PID: c.process.Pid, child: c}
	if terminal {
		files, err := receiveReply(c.conn, 1)
		if err != nil {
			return nil, endedEarly(err)
		}
		p.Terminal = files[0]
	}
	// The end of the stream is what execve does to the socket.
	_, err = receiveReply(c.conn, 0)
	if errors.Is(err, io.EOF) {
		return p, nil
	}
	p.closeTerminal()
	if err == nil {
		err = errors.New("unexpected reply")
	}
	return nil, err
}

func endedEarly(err error) error {
	if errors.Is(err, io.EOF) {
		return &StepError{Step: "open terminal", Err: ErrClosed, Code: ExitRingfence}
	}
	return err
}

// Process is a running command.
type Process struct {
	PID int // as the agent sees it
	// Terminal is the master of the command's pty, or nil. The caller closes it.
	Terminal *os.File

	child *child
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

func (p *Process) closeTerminal() {
	if p != nil && p.Terminal != nil {
		_ = p.Terminal.Close()
	}
}
