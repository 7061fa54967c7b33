package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/watch"
)

const (
	// quiet is how long nothing must change before what there is counts: a file may
	// be half written.
	quiet = 100 * time.Millisecond
	// lookEvery is how often to look where the kernel does not tell.
	lookEvery = 2 * time.Second
	// maxLooks bounds the wait for a file that is written all the time.
	maxLooks = 10
)

// Reading is what came of reading a set.
type Reading struct {
	Content Content
	Err     error
}

func (r Reading) equal(other Reading) bool {
	if (r.Err == nil) != (other.Err == nil) || r.Err != nil && r.Err.Error() != other.Err.Error() {
		return false
	}
	return r.Content.Equal(other.Content)
}

// Watch calls changed whenever read has come to return something else than the
// last time, beginning with now; an error of another text is something else too.
// Read reads the set. It returns nil when the context ends.
//
// Where changes cannot be watched, because the kernel has no watches left or a
// path leads through procfs, it looks every two seconds instead. That is told to
// report, once. The functions are called from this goroutine, one at a time.
func (s Set) Watch(ctx context.Context, now Reading, read func() Reading, changed func(Reading), report func(error)) error {
	if len(s.paths()) == 0 {
		<-ctx.Done()
		return nil
	}
	last, reported := now, false
	for ctx.Err() == nil {
		// A watcher for each round, and before reading: what changes from here on
		// is either read or waited for, and a path that leads elsewhere is walked
		// anew.
		w, err := s.watcher()
		if next := settle(ctx, read, last); ctx.Err() == nil && !next.equal(last) {
			last = next
			changed(next)
		}
		if err == nil {
			err = wait(ctx, w, last)
			_ = w.Close()
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if !reported {
			reported = true
			report(fmt.Errorf("watch policy files, now looking every %v: %w", lookEvery, err))
		}
		sleep(ctx, lookEvery)
	}
	return nil
}

// wait waits for the next change. That a file is closed is no change.
func wait(ctx context.Context, w *watch.Watcher, last Reading) error {
	if !errors.Is(last.Err, ErrBeingWritten) {
		return w.Wait(ctx, quiet)
	}
	soon, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	if err := w.Wait(soon, quiet); err != nil && soon.Err() == nil {
		return err
	}
	return nil
}

// settle reads, and where that is not the last reading, reads until it is the same
// for a quiet time. Quiet directories alone do not do: the writing may begin after
// the wait for them. In directories that are never quiet they do not come.
func settle(ctx context.Context, read func() Reading, last Reading) Reading {
	next := read()
	for range maxLooks {
		if next.equal(last) {
			break
		}
		before := next
		sleep(ctx, quiet)
		if next = read(); next.equal(before) {
			break
		}
	}
	return next
}

// paths returns what is to be watched: no shipped policy changes.
func (s Set) paths() []string {
	var paths []string
	for _, spec := range s.specs() {
		if isPath(spec) {
			paths = append(paths, spec)
		}
	}
	if s.RegoDir != "" {
		paths = append(paths, s.RegoDir)
	}
	return paths
}

// watcher watches every directory that decides what Read returns: those in which a
// part of a path or of a symbolic link's text is looked up, from the root on.
func (s Set) watcher() (*watch.Watcher, error) {
	w, err := watch.New()
	if err != nil {
		return nil, err
	}
	if err := s.addTo(w); err != nil {
		_ = w.Close()
		return nil, err
	}
	return w, nil
}

func (s Set) addTo(w *watch.Watcher) error {
	host, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer host.Close()
	root := rootfs.New(host)
	for _, path := range s.paths() {
		if err := addWay(w, root, path); err != nil {
			return err
		}
	}
	if s.RegoDir == "" {
		return nil
	}
	modules, err := listModules(s.RegoDir, openFile)
	if err != nil {
		return nil // Read says so; that the list changes is watched already
	}
	for _, path := range modules {
		if err := addWay(w, root, path); err != nil {
			return err
		}
	}
	return nil
}

// addWay watches the directories on the way of a path.
func addWay(w *watch.Watcher, root *rootfs.Root, path string) error {
	path, err := absolute(path)
	if err != nil {
		return err
	}
	var failed error
	err = root.Visit(path, func(dir int) {
		if failed == nil {
			failed = w.Add("/proc/self/fd/" + strconv.Itoa(dir))
		}
	})
	if failed != nil {
		return failed
	}
	return err
}

// absolute returns an absolute path that is not cleaned: "link/.." is what the
// kernel says.
func absolute(path string) (string, error) {
	if filepath.IsAbs(path) {
		return path, nil
	}
	wd, err := os.Getwd()
	return wd + "/" + path, err
}

// sleep waits, at most until the context ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
