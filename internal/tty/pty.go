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
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// SizeOf returns the size of the terminal f.
func SizeOf(f *os.File) (Size, error) {
	size, err := pty.GetsizeFull(f)
	if err != nil {
		return Size{}, fmt.Errorf("read terminal size: %w", err)
	}
	return Size{Rows: size.Rows, Cols: size.Cols}, nil
}

// SetSize sets the size of the terminal f; what runs in it gets SIGWINCH.
func SetSize(f *os.File, size Size) error {
	if err := pty.Setsize(f, &pty.Winsize{Rows: size.Rows, Cols: size.Cols}); err != nil {
		return fmt.Errorf("set terminal size: %w", err)
	}
	return nil
}
