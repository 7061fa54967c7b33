package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/floor"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
	"github.com/ringfence/ringfence/internal/store"
)

// askDoctor is the hint to what a machine lacks.
const askDoctor = "ringfence doctor tells what this machine has and lacks, and what to do about it"

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
	for _, message := range messages(err) {
		fmt.Fprintf(out, "ringfence: %s\n", event.Prose(message))
	}
	status, next := launch.ExitRingfence, ""
	var (
		load   policy.LoadError
		step   *launch.StepError
		hinted *hintedError
		ended  *signalError
		read   *source.Error
		state  *store.Error
		own    *statusError
		lacks  *floor.Error
		old    *cgroup.UnsupportedError
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
	case errors.As(err, &state) && state.Hint != "":
		next = state.Hint
	case errors.Is(err, syscall.ENOSPC):
		next = "a file system is full; /run and /sys/fs/bpf are the ones that an agent writes to"
	case errors.As(err, &lacks), errors.As(err, &old), errors.Is(err, agent.ErrHooks):
		next = askDoctor
	}
	if errors.As(err, &own) {
		status = own.status
	}
	if next != "" {
		fmt.Fprintf(out, "hint: %s\n", event.Prose(next))
	}
	return status
}

// messages returns what an error says, one for each thing that failed. A newline in
// one is a name's, and not the end of it.
func messages(err error) []string {
	text := err.Error()
	switch e := err.(type) { //nolint:errorlint // only what is on top is taken apart
	case policy.LoadError:
		return strings.Split(text, "\n")
	case interface{ Unwrap() []error }:
		var all []string
		for _, one := range e.Unwrap() {
			all = append(all, messages(one)...)
		}
		if strings.Join(all, "\n") == text { // joined, without words of its own
			return all
		}
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil && inner.Error() == text { // a hint, a status
			return messages(inner)
		}
	}
	return []string{text}
}
