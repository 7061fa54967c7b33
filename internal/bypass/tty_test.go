package bypass

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/tty"
)

// ttyGroup: the terminal of who started the sandbox (row 36). It is started on a
// pty of the test's, which plays that terminal.
func ttyGroup() group {
	return group{name: "tty", runner: client, stage: onTerminal, attempts: func() []attempt {
		const no = "EPERM EACCES"
		on := func(request uintptr) func(*intruder) string {
			return func(*intruder) string {
				fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
				if err != nil {
					return word(err)
				}
				defer unix.Close(fd)
				char := [2]byte{'x'}
				return every(map[string]string{
					"/dev/tty":  call(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&char))),
					"stdin":     call(unix.SYS_IOCTL, 0, request, uintptr(unsafe.Pointer(&char))),
					"high bits": call(unix.SYS_IOCTL, uintptr(fd), request|1<<32, uintptr(unsafe.Pointer(&char))),
				})
			}
		}
		return []attempt{
			{row: 36, name: "tiocsti", try: on(unix.TIOCSTI), want: no},
			{row: 36, name: "tioclinux", try: on(0x541c), want: no},
			{row: 36, name: "console", want: no + " ENOTTY", try: func(*intruder) string {
				return call(unix.SYS_IOCTL, 0, unix.TIOCCONS, 0)
			}},
			{row: 36, name: "other_terminals", want: "none", try: func(*intruder) string {
				var found []string
				all, _ := filepath.Glob("/dev/pts/*") // the pattern is well formed
				more, _ := filepath.Glob("/dev/tty[0-9]*")
				for _, path := range append(all, more...) {
					if path != "/dev/pts/0" && path != "/dev/pts/ptmx" {
						found = append(found, path)
					}
				}
				return listOr(found, "none")
			}},
			{row: 36, name: "own_terminal", want: "/dev/pts/0", try: func(*intruder) string {
				link, err := os.Readlink("/proc/self/fd/0")
				if err != nil {
					return word(err)
				}
				return link
			}},
			{row: 36, name: "settings_of_outer", want: ok, try: func(*intruder) string {
				// Its own it may change: TestBypasses looks at the outer one afterwards.
				settings, err := unix.IoctlGetTermios(0, unix.TCGETS)
				if err != nil {
					return word(err)
				}
				settings.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
				return word(unix.IoctlSetTermios(0, unix.TCSETS, settings))
			}},
		}
	}}
}

// onTerminal gives the run a terminal, which must be after it as it was before.
func onTerminal(s *stage) error {
	master, slave, err := tty.Open()
	if err != nil {
		return err
	}
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	s.cmd.Stdin, s.cmd.Stderr = slave, slave
	var shown bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&shown, master) // ends when the last slave is closed
	}()
	s.atEnd(func() error {
		after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		_ = slave.Close()
		<-done
		_ = master.Close()
		if err == nil && *after != *before {
			return errTerminal
		}
		return err
	})
	return nil
}

var errTerminal = errors.New("the outer terminal has other settings than before")
