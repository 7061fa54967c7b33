package launch

import (
	"errors"
	"fmt"
	"syscall"
	"unicode/utf8"
)

// Exit statuses for a command that could not be started, as a shell has them.
const (
	ExitRingfence = 125 // Ringfence itself failed
	ExitNotExec   = 126 // found, but not executable
	ExitNotFound  = 127 // not found
)

// Errors of this package, beside StepError.
var (
	// ErrRoot refuses uid 0: it owns cgroupfs even without capabilities.
	ErrRoot = errors.New("root has no place in a sandbox")
	// ErrClosed is returned when the sandbox's namespaces have ended.
	ErrClosed = errors.New("the sandbox has ended")
	// ErrGone is returned for a sandbox whose init has ended: there is nothing to adopt.
	ErrGone = errors.New("its init is gone")
	// ErrForeign is returned for a sandbox that is not the one that was recorded.
	ErrForeign = errors.New("not the sandbox that was recorded")
	// ErrBadCommand is returned for a command that no process can be given.
	ErrBadCommand = errors.New("bad command")
	// ErrNotOwn refuses to dial what is not the sandbox's own.
	ErrNotOwn = errors.New("only what listens in the sandbox itself is dialled")
	// ErrNoUser is returned for a user that does not exist.
	ErrNoUser = errors.New("no such user")
)

// A StepError says which step of starting a sandbox or a command failed. Nothing
// is left of what the steps before it made.
type StepError struct {
	Step string
	Err  error
	Hint string // what to do about it; may be empty
	Code int    // the exit status that tells it: 125, 126 or 127
}

// Error returns "step: error".
func (e *StepError) Error() string { return e.Step + ": " + e.Err.Error() }

// Unwrap returns the error of the step; an errno survives the way to the agent.
func (e *StepError) Unwrap() error { return e.Err }

// remoteError is an error of the child: its text, and its errno where it had one.
type remoteError struct {
	text  string
	errno syscall.Errno
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

func (f *fault) stepError() *StepError {
	return &StepError{Step: f.Step, Err: &remoteError{text: string(f.Text), errno: f.Errno}, Hint: f.Hint, Code: f.Code}
}

// faultOf turns any error of the child into what goes to the agent. The text is
// cut: a reply is bounded.
func faultOf(err error) *fault {
	var step *StepError
	if !errors.As(err, &step) {
		step = &StepError{Step: "start", Err: err, Code: ExitRingfence}
	}
	text := step.Err.Error()
	if most := 2 << 10; len(text) > most {
		for range utf8.UTFMax - 1 { // not within a character, where it is one
			if !utf8.RuneStart(text[most]) {
				most--
			}
		}
		text = text[:most] + " …"
	}
	f := &fault{Step: step.Step, Text: []byte(text), Hint: step.Hint, Code: step.Code}
	_ = errors.As(step.Err, &f.Errno)
	return f
}

// A step is one thing that the child does; run does steps in order and stops at
// the first that fails.
type step struct {
	name string
	do   func() error
}

func run(steps []step) error {
	for _, s := range steps {
		err := s.do()
		if err == nil {
			continue
		}
		var already *StepError
		if errors.As(err, &already) {
			return err
		}
		return &StepError{Step: s.name, Err: err, Code: ExitRingfence}
	}
	return nil
}

// pathError names a path in an error of a system call.
func pathError(verb, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, path, err)
}
