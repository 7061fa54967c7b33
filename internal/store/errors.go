package store

import (
	"errors"
	"fmt"
)

// What may be wrong, for errors.Is.
var (
	// ErrNotFound: there is nothing under the key.
	ErrNotFound = errors.New("not found")
	// ErrInUse: another agent has the store open.
	ErrInUse = errors.New("another agent uses it")
	// ErrBroken: the file does not hold what was written to it.
	ErrBroken = errors.New("the file is broken")
	// ErrNewer: a newer release has written the file.
	ErrNewer = errors.New("a newer release has written it")
	// ErrUnsafe: others could read or change it.
	ErrUnsafe = errors.New("not root's alone")
	// ErrKey: the key file is missing, or is not the one that secrets were sealed with.
	ErrKey = errors.New("not the key that the secrets were sealed with")
	// ErrSealed: the value is a secret, and was asked for as none; or the other way round.
	ErrSealed = errors.New("a secret is read as a secret, and nothing else is")
	// ErrTooLarge: a key, a value, a bucket or the file is at its bound.
	ErrTooLarge = errors.New("at the bound")
	// ErrBucket: there is no such bucket.
	ErrBucket = errors.New("no such bucket")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("closed")
)

// Error is what is wrong with a file or directory, and what to do about it.
type Error struct {
	Path string
	Err  error
	Hint string // for a person; may be empty
}

// Error says what is wrong with which file.
func (e *Error) Error() string { return fmt.Sprintf("state in %s: %v", e.Path, e.Err) }

// Unwrap returns what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// broken says that a file is broken, and how.
func broken(path, format string, args ...any) error {
	return &Error{
		Path: path, Err: fmt.Errorf("%w: %s", ErrBroken, fmt.Sprintf(format, args...)),
		Hint: "put a copy of the file back; or move it aside and start without what it holds: nothing was changed",
	}
}
