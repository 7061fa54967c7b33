package sshd

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/launch"
)

const (
	// drainTimeout bounds the wait for a terminal's last output after its command.
	drainTimeout = 250 * time.Millisecond
	// terminalChunk is how much is copied at once of a terminal, which hands over at
	// most 4 KiB.
	terminalChunk = 8 << 10
)

// streams are our ends of a command's input and output: three pipes, or a terminal.
type streams struct {
	theirs   []*os.File // to be closed once the command has them
	in       *os.File   // our ends
	out      *os.File   // of a terminal, in and out are the same
	errs     *os.File   // nil of a terminal
	terminal *os.File   // the process's own descriptor of it
	once     sync.Once
}

// newStreams makes the pipes of a command that has no terminal.
func newStreams(command *Command) (_ *streams, err error) {
	s := &streams{}
	if command.Terminal {
		return s, nil
	}
	defer func() {
		if err != nil {
			s.started()
			s.close()
		}
	}()
	for i, ours := range []**os.File{&s.in, &s.out, &s.errs} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		their := r
		*ours = w
		if i > 0 {
			their, *ours = w, r
		}
		command.Stdio[i] = their
		s.theirs = append(s.theirs, their)
	}
	return s, nil
}

// started closes what only the command holds now, so that its end is seen.
func (s *streams) started() {
	for _, f := range s.theirs {
		_ = f.Close()
	}
	s.theirs = nil
}

// attach takes the terminal of a process that has one.
func (s *streams) attach(process *launch.Process) error {
	if process.Terminal == nil {
		return nil
	}
	s.terminal = process.Terminal
	master, err := pollable(process.Terminal)
	if err != nil {
		return err
	}
	s.in, s.out = master, master
	return nil
}

// pollable returns a descriptor of a terminal's master whose reads do not hold a
// thread, and end when it is closed.
func pollable(master *os.File) (*os.File, error) {
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	dup, failed := -1, error(nil)
	err = raw.Control(func(fd uintptr) {
		if dup, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); failed == nil {
			failed = unix.SetNonblock(dup, true)
		}
	})
	if err := errors.Join(err, failed); err != nil {
		if dup >= 0 {
			_ = unix.Close(dup)
		}
		return nil, err
	}
	return os.NewFile(uintptr(dup), "pty master"), nil
}

// drain is called when the command has ended. What holds on to a terminal after that is
// not waited for.
func (s *streams) drain() {
	if s.terminal != nil {
		_ = s.out.SetReadDeadline(time.Now().Add(drainTimeout))
	}
}

// close closes our ends, and so hangs up a terminal. It may be called more than once.
func (s *streams) close() {
	s.once.Do(func() {
		for _, f := range []*os.File{s.in, s.out, s.errs, s.terminal} {
			if f != nil {
				_ = f.Close() // of a terminal, the second time it is closed already
			}
		}
	})
}

// copyIn copies what the client sends. Its end is the end of a pipe; a terminal has
// none, as in sshd: there it is a character. What a command does not read any more is
// read and dropped, so that the client can end.
func (s *session) copyIn() {
	size := chunk
	if s.command.Terminal {
		size = terminalChunk
	}
	if s.conn.pump(s.streams.in, s.channel, &s.received, size) != nil {
		_, _ = io.Copy(io.Discard, s.channel)
	}
	if !s.command.Terminal {
		_ = s.streams.in.Close()
	}
}

// copyOut starts to copy the command's output, and returns what is closed when there is
// no more.
func (s *session) copyOut() <-chan struct{} {
	var ways sync.WaitGroup
	if s.command.Terminal {
		ways.Go(func() {
			_ = s.conn.pump(s.channel, s.streams.out, &s.sent, terminalChunk)
			s.copyRest()
		})
	} else {
		ways.Go(func() { s.copyPipe(s.channel, s.streams.out) })
		ways.Go(func() { s.copyPipe(s.channel.Stderr(), s.streams.errs) })
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

// copyRest copies what a terminal still holds when its time is up, without waiting: the
// client may have been slow.
func (s *session) copyRest() {
	raw, err := s.streams.out.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, terminalChunk)
	for {
		n := 0
		if err := raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) }); err != nil || n <= 0 {
			return
		}
		if _, err := s.channel.Write(buf[:n]); err != nil {
			return
		}
		s.sent.Add(int64(n))
	}
}
