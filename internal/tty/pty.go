// Package tty opens pty pairs and copies between a person's terminal and the
// terminal of a sandbox.
//
// A sandbox never gets a terminal of the host: whoever shares one can type into
// it. It gets the slave of a pty of its own, and a Session copies between its
// master and the outer terminal, which is put into raw mode and always put back.
// What runs behind the slave is not known here. creack/pty is imported nowhere
// else.
package tty

import (
	"errors"
	"fmt"
	"os"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Size is the size of a terminal in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// ErrNotTerminal is returned for a file that is no terminal.
var ErrNotTerminal = errors.New("not a terminal")

// Open opens a pty pair from /dev/ptmx. Neither end becomes a controlling
// terminal, and reads and writes of both block: the slave is made to be a
// program's standard stream.
func Open() (master, slave *os.File, err error) {
	master, slave, err = pty.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("open pty: %w", err)
	}
	err = errors.Join(unix.SetNonblock(int(master.Fd()), false), unix.SetNonblock(int(slave.Fd()), false))
	if err != nil {
		_, _ = master.Close(), slave.Close()
		return nil, nil, fmt.Errorf("open pty: %w", err)
	}
	return master, slave, nil
}

// IsTerminal reports whether a descriptor is a terminal.
func IsTerminal(f *os.File) bool {
	is := false
	_ = withFD(f, func(fd int) error {
		is = term.IsTerminal(fd)
		return nil
	})
	return is
}

// withFD runs fn with f's descriptor. File.Fd would put a file that does not block
// back to blocking, and so end its deadlines (and so do creack/pty's functions).
func withFD(f *os.File, fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = fn(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// SizeOf returns the size of the terminal f.
func SizeOf(f *os.File) (Size, error) {
	var size *unix.Winsize
	err := withFD(f, func(fd int) (err error) {
		size, err = unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		return err
	})
	if err != nil {
		return Size{}, fmt.Errorf("read terminal size: %w", err)
	}
	return Size{Rows: size.Row, Cols: size.Col}, nil
}

// SetSize sets the size of the terminal f; what runs in it gets SIGWINCH.
func SetSize(f *os.File, size Size) error {
	winsize := &unix.Winsize{Row: size.Rows, Col: size.Cols}
	err := withFD(f, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, winsize) })
	if err != nil {
		return fmt.Errorf("set terminal size: %w", err)
	}
	return nil
}
