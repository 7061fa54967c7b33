// Package watch tells that entries of some directories have changed: that one
// came, went, was renamed, written to, or got another owner or mode.
//
// It says that there is something to look at, never what: who waits reads the
// state anew. So a lost event is a bug, and one too many is none. Mounts that come
// and go are not told, nor are changes that another machine makes to a network
// file system: the kernel has no events for them here. fsnotify is imported
// nowhere else.
package watch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/fsnotify/fsnotify"
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
	events *fsnotify.Watcher
	seen   map[inode]bool
	next   int // the lowest descriptor that no watch was named by yet
}

// inode tells directories apart. A number is given out again only after its
// directory was removed, and then there is a change to tell already.
type inode struct{ dev, ino uint64 }

// New makes a watcher of nothing.
func New() (*Watcher, error) {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("make watcher (see fs.inotify.max_user_instances): %w", err)
	}
	return &Watcher{events: events, seen: make(map[inode]bool)}, nil
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
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	id := inode{st.Dev, st.Ino}
	if w.seen[id] {
		return nil
	}
	if len(w.seen) == maxDirs {
		return fmt.Errorf("watch %s: %w", dir, ErrTooMany)
	}
	if err := w.add(fd); err != nil {
		return fmt.Errorf("watch %s (see fs.inotify.max_user_watches): %w", dir, err)
	}
	w.seen[id] = true
	return nil
}

// add gives fsnotify a name that it has not had before. It forgets a watch when a
// second directory is added under the first one's name, and descriptors are
// numbered anew as soon as they are closed. Those that are kept open instead would
// keep file systems from being unmounted.
func (w *Watcher) add(fd int) error {
	named, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, w.next)
	if err != nil {
		return err
	}
	defer unix.Close(named)
	w.next = named + 1
	return w.events.Add("/proc/self/fd/" + strconv.Itoa(named))
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
		case _, open := <-w.events.Events:
			if !open {
				return ErrClosed
			}
		case err, open := <-w.events.Errors:
			if !open {
				return ErrClosed
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watch directories: %w", err)
			}
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

// Close ends all watches.
func (w *Watcher) Close() error { return w.events.Close() }
