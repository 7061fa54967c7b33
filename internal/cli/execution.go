package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/tty"
)

// execChunk is how much of a stream goes in one message.
const execChunk = 32 << 10

// errCutOff: the agent ended the stream and did not say how the command ended.
var errCutOff = errors.New("the agent did not say how the command ended")

// execution is one command in a sandbox, with our streams as its own.
type execution struct {
	env         Env
	start       *ringfencev1.ExecStart
	interrupted *interrupts

	stream ringfencev1.Sandboxes_ExecClient
	mu     sync.Mutex // guards sends on stream
}

// run returns the command's exit status, or an error where there is none.
func (e *execution) run(ctx context.Context, c *api.Client) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream, and what waits to send
	var err error
	if e.stream, err = c.Sandboxes.Exec(ctx); err != nil {
		return 0, err
	}
	if err := e.send(&ringfencev1.ExecRequest{Message: &ringfencev1.ExecRequest_Start{Start: e.start}}); err != nil {
		return 0, e.whyEnded(err)
	}
	first, err := e.stream.Recv()
	if err != nil {
		return 0, err
	}
	if exit := first.GetExit(); exit != nil {
		if exit.GetError() != "" {
			report(e.env.Stderr, hint(errors.New(exit.GetError()), exit.GetHint()))
		}
		return int(exit.GetCode()), nil
	}
	if e.start.GetDetach() {
		return e.detached(first.GetStarted())
	}
	e.interrupted.deliverTo(e)
	if e.start.GetTerminal() && outerTerminal(e.env) != nil {
		return e.onTerminal(cancel)
	}
	go e.copyIn()
	return e.copyOut(e.env.Stdout)
}

// detached says which process it is, and takes nothing more.
func (e *execution) detached(started *ringfencev1.ExecStarted) (int, error) {
	if _, err := fmt.Fprintln(e.env.Stdout, started.GetPid()); err != nil {
		return 0, err
	}
	for {
		if _, err := e.stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return 0, err
		}
	}
}

// copyOut writes what the command does until it has ended.
func (e *execution) copyOut(stdout io.Writer) (int, error) {
	for {
		message, err := e.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, errCutOff
		}
		if err != nil {
			return 0, err
		}
		switch m := message.GetMessage().(type) {
		case *ringfencev1.ExecResponse_Stdout:
			_, err = stdout.Write(m.Stdout)
		case *ringfencev1.ExecResponse_Stderr:
			_, err = e.env.Stderr.Write(m.Stderr)
		case *ringfencev1.ExecResponse_Exit:
			return int(m.Exit.GetCode()), nil
		}
		if errors.Is(err, syscall.EPIPE) {
			// Nobody reads any more: what it would have ended of, had it written itself.
			return 128 + int(syscall.SIGPIPE), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// copyIn sends the standard input to its end. It is left behind in a read when the
// command ends first, as the process ends then.
func (e *execution) copyIn() {
	buf := make([]byte, execChunk)
	for {
		n, err := e.env.Stdin.Read(buf)
		if n > 0 && e.sendStdin(buf[:n]) != nil {
			return // the command has ended, as copyOut learns
		}
		if err != nil {
			_ = e.send(&ringfencev1.ExecRequest{Message: &ringfencev1.ExecRequest_CloseStdin{CloseStdin: true}})
			return
		}
	}
}

func (e *execution) sendStdin(data []byte) error {
	// A message may be read until the stream ends, and the caller has its bytes back before.
	return e.send(&ringfencev1.ExecRequest{Message: &ringfencev1.ExecRequest_Stdin{Stdin: bytes.Clone(data)}})
}

func (e *execution) send(m *ringfencev1.ExecRequest) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stream.Send(m)
}

// whyEnded returns what a stream ended with, of which a send only says that it did.
func (e *execution) whyEnded(err error) error {
	if errors.Is(err, io.EOF) {
		_, err = e.stream.Recv()
	}
	return err
}

// Signal hands a signal on to the command.
func (e *execution) Signal(s syscall.Signal) error {
	name := unix.SignalName(s)
	if len(name) < len("SIG") {
		return nil // a real-time one: none of those that we catch
	}
	return e.send(&ringfencev1.ExecRequest{Message: &ringfencev1.ExecRequest_Signal{Signal: name[len("SIG"):]}})
}

// onTerminal is a session between our terminal and the command's.
func (e *execution) onTerminal(cancel context.CancelFunc) (int, error) {
	read, write := io.Pipe()
	inner := &remoteTerminal{execution: e, output: read, cancel: cancel}
	var in *os.File
	if tty.IsTerminal(e.env.Stdin) {
		in = e.env.Stdin
	}
	session, err := tty.NewSessionOver(inner, in, outerTerminal(e.env))
	if err != nil {
		return 0, err
	}
	if in == nil {
		go e.copyIn()
	}
	status, err := e.copyOut(write)
	_ = write.Close()
	session.Finish(context.Background())
	return status, err
}

// outerTerminal is the person's terminal to write to; nil where there is none.
func outerTerminal(env Env) *os.File {
	for _, f := range []*os.File{env.Stdout, env.Stderr, env.Stdin} {
		if tty.IsTerminal(f) {
			return f
		}
	}
	return nil
}

// remoteTerminal is the command's terminal, at the other end of the stream.
type remoteTerminal struct {
	*execution
	output *io.PipeReader
	cancel context.CancelFunc
}

// Read implements tty.Inner.
func (t *remoteTerminal) Read(p []byte) (int, error) { return t.output.Read(p) }

// Write implements tty.Inner.
func (t *remoteTerminal) Write(p []byte) (int, error) {
	if err := t.sendStdin(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Resize implements tty.Inner.
func (t *remoteTerminal) Resize(size tty.Size) error {
	if size.Rows == 0 || size.Cols == 0 {
		return nil // nobody knows ours; it keeps the one that it began with
	}
	return t.send(&ringfencev1.ExecRequest{Message: &ringfencev1.ExecRequest_Resize{
		Resize: &ringfencev1.TerminalSize{Columns: uint32(size.Cols), Rows: uint32(size.Rows)},
	}})
}

// Interrupt implements tty.Inner.
func (t *remoteTerminal) Interrupt() {
	t.cancel()
	_ = t.output.CloseWithError(io.ErrClosedPipe)
}

// Close implements tty.Inner.
func (t *remoteTerminal) Close() error { return t.output.Close() }
