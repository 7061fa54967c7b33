// Package floor is the words for what a machine must have before anything can be
// fenced on it, and the oldest kernel.
//
// Each room that asks something of the machine says so itself, as Requirements:
// what was found, and what is lost without it. internal/agent gathers them, refuses
// to start without those that are required, and the doctor command prints them. They
// are no values of a connection, so they have no place in flow. Nothing is looked at
// here but the kernel's version, and no room's knowledge may come in.
package floor

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// State is what is known of a requirement. The zero value is no good news.
type State int

// The states.
const (
	Unknown State = iota // could not be looked at
	Missing
	Met
)

// String returns the word for a state.
func (s State) String() string {
	switch s {
	case Met:
		return "ok"
	case Missing:
		return "missing"
	default:
		return "unknown"
	}
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Requirement is one thing that a machine has or lacks.
type Requirement struct {
	Group string // where it is printed; set by who gathers
	Name  string // a noun: a machine lacks it
	State State
	Found string // what was seen, or why nothing was
	// Costs is what is lost without it. Where it is empty the requirement is no
	// option: nothing starts.
	Costs string
	Hint  string // what to do where it is missing
}

// Required reports whether nothing starts without it.
func (r *Requirement) Required() bool { return r.Costs == "" }

// Error says what a machine lacks, a line for each thing.
type Error struct{ Missing []Requirement }

// Error implements error.
func (e *Error) Error() string {
	var lines []string
	for _, r := range e.Missing {
		lines = append(lines, fmt.Sprintf("this machine lacks %s: %s", r.Name, r.Found))
	}
	return strings.Join(lines, "\n")
}

// Check returns an *Error where something is missing that is required. What could
// not be looked at is left to the start itself, which fails without it.
func Check(all []Requirement) error {
	var missing []Requirement
	for _, r := range all {
		if r.Required() && r.State == Missing {
			missing = append(missing, r)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &Error{missing}
}

// The oldest kernel: the object of bpf/ loads from there on.
const (
	kernelMajor = 6
	kernelMinor = 1
)

// Kernel tells whether the running kernel is new enough.
func Kernel() Requirement {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Requirement{Name: kernelName(), Found: err.Error()}
	}
	return judgeKernel(unix.ByteSliceToString(uts.Release[:]))
}

func kernelName() string { return fmt.Sprintf("Linux %d.%d or newer", kernelMajor, kernelMinor) }

// judgeKernel judges a release, such as 6.1.0-56-cloud-amd64.
func judgeKernel(release string) Requirement {
	r := Requirement{Name: kernelName(), Found: release, Hint: "boot a newer kernel: Debian 12, Ubuntu 24.04 and later have one"}
	var major, minor int
	switch n, err := fmt.Sscanf(release, "%d.%d", &major, &minor); {
	case n < 2 || err != nil:
		r.Found = fmt.Sprintf("no version in %q", release)
	case major > kernelMajor || major == kernelMajor && minor >= kernelMinor:
		r.State = Met
	default:
		r.State = Missing
	}
	return r
}
