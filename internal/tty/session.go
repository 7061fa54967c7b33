package tty

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// drainTimeout bounds how long Finish waits for the last output, which ends when
// nothing holds the inner terminal any more.
const drainTimeout = 2 * time.Second

// foregroundPoll is how often a run in the background looks whether it is still
// there.
const foregroundPoll = 200 * time.Millisecond

// copySize is the buffer of each direction; a pty hands over at most 4 KiB.
const copySize = 16 << 10

// Inner is the inner terminal as a session sees it: one that is elsewhere, or the
// master of a pty.
type Inner interface {
	io.Reader // what comes out of it, until it ends
	io.Writer // what is typed into it
	Resize(Size) error
	// Interrupt ends every Read and Write, now and from now on.
	Interrupt()
	// Close is called last, when nothing uses it any more.
	Close() error
}

// Session copies between an outer terminal and an inner one.
type Session struct {
	inner   Inner
	in, out *os.File // our own open files of the outer terminal; in may be nil

	signals   chan os.Signal
	continued chan struct{} // a SIGCONT came
	done      chan struct{} // Finish was called
	drained   chan struct{} // nothing more comes out of the inner terminal
	running   sync.WaitGroup

	mu    sync.Mutex
	saved *term.State // of the outer terminal; nil while it is as it was
	once  sync.Once
}

// NewSession starts to copy. Output goes to out; in, if it is not nil, is the
// outer terminal that is typed into, and is put into raw mode while this process
// is in its foreground. master, in and out stay the caller's, and are not changed:
// the session opens the terminals anew, so that no read of it is left behind
// when it ends.
//
// Finish must be called, deferred at best: it puts the terminal back.
func NewSession(master, in, out *os.File) (*Session, error) {
	dup, err := duplicate(master)
	if err != nil {
		return nil, err
	}
	return NewSessionOver(ptyMaster{dup}, in, out)
}

// NewSessionOver is NewSession for any inner terminal. The session closes it, also
// where there is an error.
func NewSessionOver(inner Inner, in, out *os.File) (_ *Session, err error) {
	s := &Session{
		inner:     inner,
		signals:   make(chan os.Signal, 8), // a bound: only the last size matters
		continued: make(chan struct{}, 1),
		done:      make(chan struct{}),
		drained:   make(chan struct{}),
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.out, err = reopen(out, os.O_WRONLY); err != nil {
		return nil, err
	}
	if in != nil {
		if s.in, err = reopen(in, os.O_RDWR); err != nil {
			return nil, err
		}
	}
	s.resize()
	if err := s.makeRaw(); err != nil {
		return nil, err
	}
	s.start()
	return s, nil
}

func (s *Session) start() {
	signal.Notify(s.signals, unix.SIGWINCH, unix.SIGCONT)
	s.running.Add(2)
	go s.copyOut()
	go s.followSignals()
	if s.in != nil {
		s.running.Add(1)
		go s.copyIn()
	}
}

// Finish waits until the inner terminal's output is drained, but not longer than
// a bound or ctx, stops copying and puts the outer terminal back. It is called
// when the command has ended; it may be called more than once.
func (s *Session) Finish(ctx context.Context) {
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, drainTimeout)
		defer cancel()
		defer s.restore()
		select {
		case <-s.drained:
		case <-ctx.Done():
		}
		close(s.done)
		signal.Stop(s.signals)
		now := time.Now() // a deadline in the past ends every read and write
		s.inner.Interrupt()
		_ = s.out.SetDeadline(now)
		if s.in != nil {
			_ = s.in.SetDeadline(now)
		}
		s.running.Wait()
		s.restore()
		s.close()
	})
}

func (s *Session) close() {
	_ = s.inner.Close()
	for _, f := range []*os.File{s.in, s.out} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// copyOut ends when the inner terminal does: that of a pty with EIO, when the last
// process lets go of it.
func (s *Session) copyOut() {
	defer s.running.Done()
	defer close(s.drained)
	defer s.restoreOnPanic()
	buf := make([]byte, copySize)
	for {
		n, err := s.inner.Read(buf)
		if n > 0 {
			if _, err := s.out.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// copyIn never reads while another process group has the terminal: the kernel
// would stop us, or we would take what was typed to somebody else.
func (s *Session) copyIn() {
	defer s.running.Done()
	defer s.restoreOnPanic()
	buf := make([]byte, copySize)
	for s.awaitForeground() {
		n, err := s.in.Read(buf)
		if n > 0 {
			if _, err := s.inner.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// awaitForeground waits until this process may read. A job that runs in the
// background gets no signal when it is brought to the front (only a stopped one
// does), so it has to look.
func (s *Session) awaitForeground() bool {
	for waited := false; ; waited = true {
		if isForeground(s.in) {
			if waited {
				_ = s.makeRaw() // else it stays as it is: still usable
			}
			return true
		}
		select {
		case <-s.continued:
		case <-time.After(foregroundPoll):
		case <-s.done:
			return false
		}
	}
}

// followSignals hands on the outer terminal's size, and takes the terminal again
// after this process was stopped.
func (s *Session) followSignals() {
	defer s.running.Done()
	defer s.restoreOnPanic()
	for {
		select {
		case <-s.done:
			return
		case sig := <-s.signals:
			s.resize()
			if sig == unix.SIGCONT {
				_ = s.makeRaw() // then it stays as it is: still usable
				select {
				case s.continued <- struct{}{}:
				default:
				}
			}
		}
	}
}

func (s *Session) resize() {
	if size, err := SizeOf(s.out); err == nil {
		_ = s.inner.Resize(size)
	}
}

// makeRaw puts the outer terminal into raw mode, if we are in its foreground.
func (s *Session) makeRaw() error {
	if s.in == nil || !isForeground(s.in) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var before *term.State
	err := withFD(s.in, func(fd int) (err error) {
		before, err = term.MakeRaw(fd)
		return err
	})
	if err != nil {
		return fmt.Errorf("set terminal to raw mode: %w", err)
	}
	if s.saved == nil { // later ones may be our own
		s.saved = before
	}
	return nil
}

// restore puts the outer terminal back. From the background it would stop us,
// and the terminal is another's then.
func (s *Session) restore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.saved == nil || !isForeground(s.in) {
		return
	}
	_ = withFD(s.in, func(fd int) error { return term.Restore(fd, s.saved) })
	s.saved = nil
}

// restoreOnPanic is deferred by every goroutine: a crash must not leave the
// person with a terminal that does not echo.
func (s *Session) restoreOnPanic() {
	if r := recover(); r != nil {
		s.restore()
		panic(r)
	}
}

// isForeground reports whether this process may use the terminal. One that is not
// its controlling terminal has no foreground for it.
func isForeground(f *os.File) bool {
	var group int
	err := withFD(f, func(fd int) (err error) {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	return err != nil || group == unix.Getpgrp()
}

// reopen opens the terminal behind a descriptor anew. The new open file does not
// block, which the caller's, shared with the shell that started us, must not be
// told.
func reopen(f *os.File, flag int) (*os.File, error) {
	var opened *os.File
	err := withFD(f, func(fd int) (err error) {
		path := "/proc/self/fd/" + strconv.Itoa(fd)
		opened, err = os.OpenFile(path, flag|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	if !IsTerminal(opened) {
		_ = opened.Close()
		return nil, fmt.Errorf("open %s: %w", f.Name(), ErrNotTerminal)
	}
	return opened, nil
}

// duplicate returns a descriptor of a master on which reads have deadlines.
func duplicate(master *os.File) (*os.File, error) {
	var dup int
	err := withFD(master, func(fd int) (err error) {
		if dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.SetNonblock(dup, true)
	})
	if err != nil {
		return nil, fmt.Errorf("duplicate pty master: %w", err)
	}
	return os.NewFile(uintptr(dup), "pty master"), nil
}

// ptyMaster is the master of a pty as an inner terminal: our own descriptor of it, on which
// reads have deadlines.
type ptyMaster struct{ *os.File }

func (p ptyMaster) Resize(size Size) error { return SetSize(p.File, size) }

func (p ptyMaster) Interrupt() { _ = p.SetDeadline(time.Now()) } // one that has passed
