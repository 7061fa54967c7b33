package launch

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// socketStream reads and writes a socket that others may share: it does not make
// it non-blocking, and a wait on it can be cancelled.
type socketStream struct {
	fd   int // a duplicate
	wake [2]int
}

func newSocketStream(f *os.File) (*socketStream, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate socket: %w", err)
	}
	s := &socketStream{fd: fd}
	if err := unix.Pipe2(s.wake[:], unix.O_CLOEXEC); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	return s, nil
}

// cancel ends every wait, for good. It is called once.
func (s *socketStream) cancel() { _ = unix.Close(s.wake[1]) }

// close comes after cancel, when nobody reads or writes any more.
func (s *socketStream) close() {
	_ = unix.Close(s.wake[0])
	_ = unix.Close(s.fd)
}

func (s *socketStream) Read(p []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, p, unix.MSG_DONTWAIT)
		switch {
		case err == nil && n == 0:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case err != unix.EAGAIN && err != unix.EINTR:
			return 0, fmt.Errorf("read socket: %w", err)
		}
		if err := s.wait(unix.POLLIN); err != nil {
			return 0, err
		}
	}
}

func (s *socketStream) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.SendmsgN(s.fd, p[done:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err == nil {
			done += n
			continue
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			return done, fmt.Errorf("write socket: %w", err)
		}
		if err := s.wait(unix.POLLOUT); err != nil {
			return done, err
		}
	}
	return done, nil
}

func (s *socketStream) wait(events int16) error {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: events}, {Fd: int32(s.wake[0])}}
	if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
		return fmt.Errorf("wait for socket: %w", err)
	}
	if fds[1].Revents != 0 {
		return os.ErrClosed
	}
	return nil
}
