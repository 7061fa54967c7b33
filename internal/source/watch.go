package source

import (
	"context"
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

// Watch calls changed whenever Read has come to return something else than the
// last time, beginning with now, which is what the caller has read; an error of
// another text is something else too. It returns nil when the context ends.
//
// Where changes cannot be watched, because the kernel has no watches left or a
// path leads through procfs, it looks every two seconds instead. That is told to
// report, once. Both functions are called from this goroutine, one at a time.
func (s Set) Watch(ctx context.Context, now Content, changed func(Content, error), report func(error)) error {
	if len(s.paths()) == 0 {
		<-ctx.Done()
		return nil
	}
	last, reported := reading{content: now}, false
	for ctx.Err() == nil {
		// A watcher for each round, and before reading: what changes from here on
		// is either read or waited for, and a path that leads elsewhere is walked
		// anew.
		w, err := s.watcher()
		if next := settle(ctx, s.read, last); ctx.Err() == nil && !next.equal(last) {
			last = next
			changed(next.content, next.err)
		}
		if err == nil {
			err = w.Wait(ctx, quiet)
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

// reading is what Read returned.
type reading struct {
	content Content
	err     error
}

func (s Set) read() reading {
	content, err := s.Read()
	return reading{content, err}
}

func (r reading) equal(other reading) bool {
	if r.err != nil && other.err != nil {
		return r.err.Error() == other.err.Error()
	}
	return r.err == nil && other.err == nil && r.content.Equal(other.content)
}

// settle reads, and where that is not the last reading, reads until it is the same
// for a quiet time. Quiet directories alone do not do: the writing may begin after
// the wait for them. In directories that are never quiet they do not come.
func settle(ctx context.Context, read func() reading, last reading) reading {
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
	modules, err := listModules(s.RegoDir)
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
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return err
		}
		path = wd + "/" + path // not cleaned: "link/.." is what the kernel says
	}
	var failed error
	err := root.Visit(path, func(dir int) {
		if failed == nil {
			failed = w.Add("/proc/self/fd/" + strconv.Itoa(dir))
		}
	})
	if failed != nil {
		return failed
	}
	return err
}

// sleep waits, at most until the context ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
