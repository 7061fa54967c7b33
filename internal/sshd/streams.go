package sshd

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/launch"
)

const (
	// drainTimeout bounds the wait for a terminal's last output after its command.
	drainTimeout = 250 * time.Millisecond
	// terminalChunk is how much is copied at once of a terminal, which hands over at
	// most 4 KiB.
	terminalChunk = 8 << 10
)

// streams are a command's input and output on our side: three pipes, or a terminal.
type streams struct {
	pipes    *launch.Pipes
	terminal *os.File
}

// newStreams makes the pipes of a command that has no terminal.
func newStreams(command *Command) (*streams, error) {
	if command.Terminal {
		return &streams{}, nil
	}
	pipes, err := launch.PipeStdio()
	if err != nil {
		return nil, err
	}
	command.Stdio = pipes.Stdio
	return &streams{pipes: pipes}, nil
}

// started is called after Exec, whether or not it succeeded.
func (s *streams) started(process *launch.Process) {
	if s.pipes != nil {
		s.pipes.Started()
	}
	if process != nil {
		s.terminal = process.Terminal
	}
}

// drain is called when the command has ended. What holds on to a terminal after that is
// not waited for.
func (s *streams) drain() {
	if s.terminal != nil {
		_ = s.terminal.SetReadDeadline(time.Now().Add(drainTimeout))
	}
}

// close closes our ends, and so hangs up a terminal. It may be called more than once.
func (s *streams) close() {
	if s.pipes != nil {
		s.pipes.Close()
	}
	if s.terminal != nil {
		_ = s.terminal.Close()
	}
}

// copyIn copies what the client sends. Its end is the end of a pipe; a terminal has
// none, as in sshd: there it is a character. What a command does not read any more is
// read and dropped, so that the client can end.
func (s *session) copyIn() {
	to, size := s.streams.terminal, terminalChunk
	if s.streams.pipes != nil {
		to, size = s.streams.pipes.Stdin, chunk
		defer to.Close()
	}
	if s.conn.pump(to, s.channel, &s.received, size) != nil {
		_, _ = io.Copy(io.Discard, s.channel)
	}
}

// copyOut starts to copy the command's output, and returns what is closed when there is
// no more.
func (s *session) copyOut() <-chan struct{} {
	var ways sync.WaitGroup
	if s.streams.pipes == nil {
		ways.Go(s.copyTerminal)
	} else {
		ways.Go(func() { s.copyPipe(s.channel, s.streams.pipes.Stdout) })
		ways.Go(func() { s.copyPipe(s.channel.Stderr(), s.streams.pipes.Stderr) })
	}
	copied := make(chan struct{})
	go func() {
		ways.Wait()
		close(copied)
	}()
	return copied
}

// copyPipe ends with the last writer, or with the channel: then a command that goes on
// writing gets SIGPIPE.
func (s *session) copyPipe(to io.Writer, from *os.File) {
	_ = s.conn.pump(to, from, &s.sent, chunk)
	_ = from.Close()
}

// copyTerminal ends when nothing holds the terminal any more, or a while after the
// command: then with what there is by then, without waiting, since the client may have
// been slow.
func (s *session) copyTerminal() {
	if s.conn.pump(s.channel, s.streams.terminal, &s.sent, terminalChunk) != nil {
		return
	}
	launch.ReadRest(s.streams.terminal, func(b []byte) error {
		s.sent.Add(int64(len(b)))
		_, err := s.channel.Write(b)
		return err
	})
}
