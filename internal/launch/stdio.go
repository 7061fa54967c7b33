package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/tty"
)

// flushTimeout bounds how long Finish waits for the last bytes of a command whose
// descendants still hold its output.
const flushTimeout = 2 * time.Second

// Streams are a command's descriptors 0 to 2, made safe for a sandbox.
//
// A socket must not get in: the hooks follow the cgroup in which a socket was
// made, so a foreign one is past the fence. The command gets a pipe, and the
// agent copies. A terminal must not get in either: whoever shares one types into
// it. The command gets the sandbox's own. The rest passes through.
type Streams struct {
	Stdio    [3]*os.File // for Command; nil where Terminal is set
	Terminal [3]bool     // for Command

	childEnds []*os.File // ours to close when the command has them
	ours      []*os.File // our ends of the pipes
	sockets   []*socketStream
	input     sync.WaitGroup
	output    sync.WaitGroup
	errs      chan error
	once      sync.Once
}

// SafeStdio makes streams of files, which stay the caller's. Finish must be called,
// also when the command was never started.
func SafeStdio(files [3]*os.File) (_ *Streams, err error) {
	s := &Streams{errs: make(chan error, len(files))}
	defer func() {
		if err != nil {
			_ = s.Finish(context.Background())
		}
	}()
	for i, f := range files {
		switch {
		case f == nil:
			return nil, fmt.Errorf("descriptor %d is missing: %w", i, ErrBadCommand)
		case tty.IsTerminal(f):
			s.Terminal[i] = true
		case !isSocket(f):
			s.Stdio[i] = f
		case i == 2 && s.Stdio[1] != files[1] && sameFile(f, files[1]):
			s.Stdio[2] = s.Stdio[1] // one socket, one pipe: the order of writes stays
		default:
			if s.Stdio[i], err = s.copySocket(f, i == 0); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

func sameFile(a, b *os.File) bool {
	aInfo, aErr := a.Stat()
	bInfo, bErr := b.Stat()
	return aErr == nil && bErr == nil && os.SameFile(aInfo, bInfo)
}

// copySocket starts to copy between a socket and a pipe, and returns the
// command's end of that.
func (s *Streams) copySocket(f *os.File, isInput bool) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	theirs, ours := r, w
	if !isInput {
		theirs, ours = w, r
	}
	s.childEnds, s.ours = append(s.childEnds, theirs), append(s.ours, ours)
	socket, err := newSocketStream(f)
	if err != nil {
		return nil, err
	}
	s.sockets = append(s.sockets, socket)
	if isInput {
		s.input.Add(1)
		go s.copyIn(ours, socket)
	} else {
		s.output.Add(1)
		go s.copyOut(socket, ours)
	}
	return theirs, nil
}

// copyIn ends with the socket's input, when the command reads no more, or with
// Finish.
func (s *Streams) copyIn(pipe *os.File, socket *socketStream) {
	defer s.input.Done()
	defer pipe.Close() // the command's end of file
	_, _ = io.Copy(pipe, socket)
}

func (s *Streams) copyOut(socket *socketStream, pipe *os.File) {
	defer s.output.Done()
	defer pipe.Close() // a command that goes on writing gets SIGPIPE
	_, err := io.Copy(socket, pipe)
	switch {
	case err == nil, errors.Is(err, os.ErrClosed):
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		// The reader has gone: what that means is the command's to say.
	default:
		s.errs <- err
	}
}

// Started closes what only the command holds now, so that its end is seen. It is
// called after Exec, whether or not that succeeded.
func (s *Streams) Started() {
	closeAll(s.childEnds)
	s.childEnds = nil
}

// Finish waits until the output is copied, but not longer than a bound or ctx,
// and stops copying. It may be called more than once; the first tells of an error.
func (s *Streams) Finish(ctx context.Context) error {
	var err error
	s.once.Do(func() {
		s.Started()
		ctx, cancel := context.WithTimeout(ctx, flushTimeout)
		defer cancel()
		copied := make(chan struct{})
		go func() { s.output.Wait(); close(copied) }()
		select {
		case <-copied:
		case <-ctx.Done():
			err = fmt.Errorf("copy output: %w", ctx.Err())
		}
		for _, socket := range s.sockets {
			socket.cancel()
		}
		closeAll(s.ours) // ends what still waits for a pipe
		<-copied
		s.input.Wait()
		for _, socket := range s.sockets {
			socket.close()
		}
		select {
		case copyErr := <-s.errs:
			err = errors.Join(err, copyErr)
		default:
		}
	})
	return err
}
