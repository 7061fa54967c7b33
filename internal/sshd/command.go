package sshd

import (
	"fmt"
	"os"
	"strings"

	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/tty"
)

// Kind is what a session runs.
type Kind uint8

// The kinds. The zero value is none of them.
const (
	KindNone  Kind = iota
	KindShell      // the user's login shell
	KindExec       // a command line, by the user's shell
	KindSFTP       // file transfer
)

var kindNames = [...]string{"none", "shell", "exec", "sftp"}

// String returns the kind's name in records.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[KindNone]
}

// Command is what a client asks to be run in a sandbox.
type Command struct {
	Kind Kind
	// Line is the command line of KindExec, as it was sent: bytes, without a NUL.
	Line string
	// Env are the variables that the client sent, of those that it may, and TERM of its
	// terminal: K=V.
	Env []string
	// Terminal says that the command gets a terminal, of Size, in place of Stdio.
	Terminal bool
	Size     tty.Size
	// Stdio are the descriptors 0 to 2 of a command without a terminal: pipes.
	Stdio [3]*os.File
	// OnTransfer is told of each file that KindSFTP has moved.
	OnTransfer func(launch.Transfer)
}

// Argv returns the arguments by which a user's shell runs the command, as sshd does.
// A login shell is told so by -l and not by a dash before its name: what is executed
// and what it is called are one thing here. KindSFTP is no program.
func (c *Command) Argv(shell string) ([]string, error) {
	switch c.Kind {
	case KindShell:
		return []string{shell, "-l"}, nil
	case KindExec:
		if strings.IndexByte(c.Line, 0) >= 0 {
			return nil, fmt.Errorf("the command line holds a zero byte: %w", ErrBadCommand)
		}
		return []string{shell, "-c", c.Line}, nil
	}
	return nil, fmt.Errorf("%s is run by no shell: %w", c.Kind, ErrBadCommand)
}
