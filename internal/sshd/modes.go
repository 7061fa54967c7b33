package sshd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/tty"
)

// terminal is what a session asked for by pty-req.
type terminal struct {
	term  string
	size  tty.Size
	modes []mode
}

// mode is one terminal mode (RFC 4254, 8).
type mode struct {
	code  byte
	value uint32
}

// modesEnd ends the list; codes from modesBeyond on have arguments that are not known.
const (
	modesEnd    = 0
	modesBeyond = 160
)

// parseModes reads the encoded modes. As the protocol has it, what follows a code that
// is not known is not read.
func parseModes(text []byte) ([]mode, error) {
	var modes []mode
	for len(text) > 0 {
		code := text[0]
		if code == modesEnd || code >= modesBeyond {
			return modes, nil
		}
		if len(text) < 5 {
			return nil, errors.New("read terminal modes: cut short")
		}
		if len(modes) == maxModes {
			return nil, errors.New("read terminal modes: too many")
		}
		modes = append(modes, mode{code, binary.BigEndian.Uint32(text[1:])})
		text = text[5:]
	}
	return modes, nil
}

// setModes sets the modes of a terminal by its master. Those that Linux does not have
// are passed over, and so are the speed of the line and the size of its characters: a
// terminal of this kind has none.
func setModes(master *os.File, modes []mode) error {
	if len(modes) == 0 {
		return nil
	}
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var state *unix.Termios
		if state, failed = unix.IoctlGetTermios(int(fd), unix.TCGETS); failed != nil {
			return
		}
		apply(state, modes)
		failed = unix.IoctlSetTermios(int(fd), unix.TCSETS, state)
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("set terminal modes: %w", err)
	}
	return nil
}

func apply(state *unix.Termios, modes []mode) {
	characters, flags := characterOf(), flagsOf(state)
	for _, m := range modes {
		if at, ok := characters[m.code]; ok {
			c := byte(0) // 255 is none, which is 0 here
			if m.value < 255 {
				c = byte(m.value)
			}
			state.Cc[at] = c
			continue
		}
		flag, ok := flags[m.code]
		if !ok {
			continue
		}
		if m.value != 0 {
			*flag.word |= flag.bit
		} else {
			*flag.word &^= flag.bit
		}
	}
}

func characterOf() map[byte]int {
	return map[byte]int{
		ssh.VINTR: unix.VINTR, ssh.VQUIT: unix.VQUIT, ssh.VERASE: unix.VERASE, ssh.VKILL: unix.VKILL,
		ssh.VEOF: unix.VEOF, ssh.VEOL: unix.VEOL, ssh.VEOL2: unix.VEOL2, ssh.VSTART: unix.VSTART,
		ssh.VSTOP: unix.VSTOP, ssh.VSUSP: unix.VSUSP, ssh.VREPRINT: unix.VREPRINT, ssh.VWERASE: unix.VWERASE,
		ssh.VLNEXT: unix.VLNEXT, ssh.VDISCARD: unix.VDISCARD,
	}
}

type flag struct {
	word *uint32
	bit  uint32
}

func flagsOf(t *unix.Termios) map[byte]flag {
	return map[byte]flag{
		ssh.IGNPAR: {&t.Iflag, unix.IGNPAR}, ssh.PARMRK: {&t.Iflag, unix.PARMRK}, ssh.INPCK: {&t.Iflag, unix.INPCK},
		ssh.ISTRIP: {&t.Iflag, unix.ISTRIP}, ssh.INLCR: {&t.Iflag, unix.INLCR}, ssh.IGNCR: {&t.Iflag, unix.IGNCR},
		ssh.ICRNL: {&t.Iflag, unix.ICRNL}, ssh.IUCLC: {&t.Iflag, unix.IUCLC}, ssh.IXON: {&t.Iflag, unix.IXON},
		ssh.IXANY: {&t.Iflag, unix.IXANY}, ssh.IXOFF: {&t.Iflag, unix.IXOFF}, ssh.IMAXBEL: {&t.Iflag, unix.IMAXBEL},
		ssh.IUTF8: {&t.Iflag, unix.IUTF8},
		ssh.ISIG:  {&t.Lflag, unix.ISIG}, ssh.ICANON: {&t.Lflag, unix.ICANON}, ssh.XCASE: {&t.Lflag, unix.XCASE},
		ssh.ECHO: {&t.Lflag, unix.ECHO}, ssh.ECHOE: {&t.Lflag, unix.ECHOE}, ssh.ECHOK: {&t.Lflag, unix.ECHOK},
		ssh.ECHONL: {&t.Lflag, unix.ECHONL}, ssh.NOFLSH: {&t.Lflag, unix.NOFLSH}, ssh.TOSTOP: {&t.Lflag, unix.TOSTOP},
		ssh.IEXTEN: {&t.Lflag, unix.IEXTEN}, ssh.ECHOCTL: {&t.Lflag, unix.ECHOCTL}, ssh.ECHOKE: {&t.Lflag, unix.ECHOKE},
		ssh.PENDIN: {&t.Lflag, unix.PENDIN},
		ssh.OPOST:  {&t.Oflag, unix.OPOST}, ssh.OLCUC: {&t.Oflag, unix.OLCUC}, ssh.ONLCR: {&t.Oflag, unix.ONLCR},
		ssh.OCRNL: {&t.Oflag, unix.OCRNL}, ssh.ONOCR: {&t.Oflag, unix.ONOCR}, ssh.ONLRET: {&t.Oflag, unix.ONLRET},
	}
}
