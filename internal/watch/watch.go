// Package watch tells that entries of some directories have changed: that one
// came, went, was renamed, written to, or got another owner or mode.
//
// It says that there is something to look at, never what: who waits reads the
// state anew. So a lost event is a bug, and one too many is none. Mounts that come
// and go are not told, nor are changes that another machine makes to a network
// file system: the kernel has no events for them here.
//
// It speaks to the kernel itself: the library of the field names watches by path, and
// so has one instance for each of those that watch, of which there are too few.
package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxDirs is how many directories one watcher takes.
	maxDirs = 1024
	// patience is for how many quiet times Wait waits where it never gets quiet.
	patience = 10
)

var (
	// ErrTooMany is returned by Add beyond 1024 directories.
	ErrTooMany = errors.New("too many directories to watch")
	// ErrClosed is returned by Wait on a closed watcher.
	ErrClosed = errors.New("the watcher is closed")
)

// Watcher watches directories for one round: New, Add, read the state, Wait,
// Close. What changes between Add and Wait is not missed. All but Close is for one
// goroutine.
type Watcher struct {
	hub     *Hub
	own     bool           // the hub ends with it
	watches map[int32]bool // by watch descriptor; guarded by the hub's mu
	changed chan struct{}
	closed  chan struct{}
	once    sync.Once
}

// New makes a watcher of nothing, with an instance of its own.
func New() (*Watcher, error) {
	h, err := NewHub()
	if err != nil {
		return nil, err
	}
	w := h.New()
	w.own = true
	return w, nil
}

// Add begins to watch a directory. The path is needed only now, so it may be that
// of a descriptor, "/proc/self/fd/N", and the descriptor may be closed afterwards.
// A directory that is watched already, under this or another name, is no error.
func (w *Watcher) Add(dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s to watch it: %w", dir, err)
	}
	defer unix.Close(fd)
	if err := w.hub.add(w, fd); err != nil {
		return fmt.Errorf("watch %s (see fs.inotify.max_user_watches): %w", dir, err)
	}
	return nil
}

// Wait returns nil after the first change since New, once nothing more has come
// for a quiet time, but at most ten of them after the first. Where the kernel lost
// count of events, something has changed.
func (w *Watcher) Wait(ctx context.Context, quiet time.Duration) error {
	var settled, late <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.closed:
			return ErrClosed
		case <-w.hub.ended:
			return w.hub.err
		case <-w.changed:
		case <-settled:
			return nil
		case <-late:
			return nil
		}
		settled = time.After(quiet)
		if late == nil {
			late = time.After(patience * quiet)
		}
	}
}

// Close ends all watches. It may be called more than once.
func (w *Watcher) Close() error {
	var err error
	w.once.Do(func() {
		close(w.closed)
		w.hub.remove(w)
		if w.own {
			err = w.hub.Close()
		}
	})
	return err
}
