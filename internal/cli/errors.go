package cli

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
)

// hintedError is an error with what to do about it.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }

func hint(err error, what string) error { return &hintedError{err, what} }

// signalError ends a run that was told to end.
type signalError struct{ signal syscall.Signal }

func (e *signalError) Error() string { return "ended by signal: " + e.signal.String() }

// report tells a person what failed, a line for each thing, and what to do about
// it. It returns the exit status that says the same.
func report(out io.Writer, err error) int {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(out, "ringfence: %s\n", printable(strings.TrimSuffix(line, "\n")))
	}
	status, next := launch.ExitRingfence, ""
	var (
		load   policy.LoadError
		step   *launch.StepError
		hinted *hintedError
		ended  *signalError
		read   *source.Error
		own    *statusError
	)
	switch {
	case errors.As(err, &ended):
		status = 128 + int(ended.signal)
	case errors.As(err, &hinted):
		next = hinted.hint
	case errors.As(err, &load):
		next = "nothing was started; mend the policy and try again"
	case errors.As(err, &step):
		status, next = step.Code, step.Hint
	case errors.As(err, &read):
		next = read.Hint
	case errors.Is(err, syscall.ENOSPC):
		next = "a file system is full; /run and /sys/fs/bpf are the ones that an agent writes to"
	}
	if errors.As(err, &own) {
		status = own.status
	}
	if next != "" {
		fmt.Fprintf(out, "hint: %s\n", printable(next))
	}
	return status
}

// printable leaves nothing that a terminal would obey: a message may have names in
// it that somebody else chose.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, text)
}
