package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
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

	// Detached commands outlive the agent: no signal tells them of its end. They
	// have no terminal, and their streams are /dev/null or regular files.
	Detached bool

	// Builtin runs a program of our own in the place of Argv, with no environment:
	// both are ignored then.
	Builtin Builtin
	// OnTransfer is called for each file that BuiltinSFTP has moved, in order and
	// from one goroutine; nil is told nothing. Wait returns after the last call.
	OnTransfer func(Transfer)
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
	Detached bool     `json:"detached,omitempty"`
	Builtin  string   `json:"builtin,omitempty"` // the hidden subcommand
}

func (c *Command) order() (*execOrder, error) {
	if c.UID == 0 {
		return nil, ErrRoot
	}
	if err := c.checkKind(); err != nil {
		return nil, err
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
		Detached: c.Detached, Builtin: c.Builtin.subcommand(),
	}, nil
}

func (c *Command) checkKind() error {
	switch {
	case c.Builtin != 0 && (c.Builtin.subcommand() == "" || c.Detached || c.wantsTerminal()):
		return fmt.Errorf("no such program of our own, or not on its own pipes: %w", ErrBadCommand)
	case c.Builtin == 0 && (len(c.Argv) == 0 || c.Argv[0] == ""):
		return fmt.Errorf("no command is named: %w", ErrBadCommand)
	case c.Detached && c.wantsTerminal():
		return fmt.Errorf("a detached command has no terminal: %w", ErrBadCommand)
	}
	return nil
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
		case c.Detached && !outlivesAgent(f):
			return streams, fmt.Errorf("descriptor %d ends with the agent: %w", i, ErrBadCommand)
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
	p, err := n.startCommand(c, order, streams, &command)
	if err == nil && command.Detached {
		err = n.letGo(c)
	}
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
	n.attached[c] = struct{}{}
	return c, nil
}

// letGo has a command live on after Detach, unless that has ended it already.
func (n *Namespaces) letGo(c *child) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrClosed
	}
	delete(n.attached, c)
	return nil
}

// release lets Close go on when the child has ended.
func (n *Namespaces) release(c *child) {
	<-c.ended
	n.mu.Lock()
	delete(n.attached, c)
	n.mu.Unlock()
	n.execs.Done()
}

func (n *Namespaces) startCommand(c *child, order *execOrder, streams [3]*os.File, command *Command) (*Process, error) {
	hold := false // a builtin's socket stays
	defer func() {
		if !hold {
			_ = c.conn.Close()
		}
	}()
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
	if command.wantsTerminal() {
		files, err := receiveReply(c.conn, 1)
		if err != nil {
			return nil, endedEarly("open terminal", err)
		}
		if p.Terminal, err = pollable(files[0]); err != nil {
			return nil, err
		}
	}
	if command.Builtin != 0 {
		// It says so when it runs: its execve leaves the socket open.
		if _, err := receiveReply(c.conn, 0); err != nil {
			return nil, endedEarly("start own program", err)
		}
		hold = true
		p.follow(c.conn, command)
		return p, nil
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

func endedEarly(step string, err error) error {
	if errors.Is(err, io.EOF) {
		return &StepError{Step: step, Err: ErrClosed, Code: ExitRingfence}
	}
	return err
}
