package identity

import (
	"context"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	// maxWanted bounds the files of one sandbox that wait to be read. Where there is
	// no room an image's hash stays unknown until it is asked for again.
	maxWanted = 256
	// failureKept is how long a file that could not be read is not tried again.
	failureKept = time.Second
)

// reader reads the files of one sandbox, one after the other, so that a large one
// delays no other sandbox.
type reader struct {
	files  Files
	hashes *Hashes
	queue  chan flow.Image

	mu      sync.Mutex
	wanted  map[flow.FileID]chan struct{} // closed once the file was read
	failed  map[flow.FileID]time.Time     // of the last second
	closing bool
}

func newReader(files Files, hashes *Hashes) *reader {
	return &reader{
		files: files, hashes: hashes, queue: make(chan flow.Image, maxWanted),
		wanted: map[flow.FileID]chan struct{}{}, failed: map[flow.FileID]time.Time{},
	}
}

// want has an image's file read. It returns what is closed once that was tried; nil
// where there is nothing to wait for.
func (r *reader) want(image flow.Image) <-chan struct{} {
	if r.hashes.of(image.File) != "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if done, ok := r.wanted[image.File]; ok {
		return done
	}
	if at, ok := r.failed[image.File]; r.closing || ok && time.Since(at) < failureKept {
		return nil
	}
	select {
	case r.queue <- image:
	default:
		return nil
	}
	done := make(chan struct{})
	r.wanted[image.File] = done
	return done
}

// run reads what is wanted until the context ends, and calls known after each file.
func (r *reader) run(ctx context.Context, known func()) {
	defer r.close()
	for {
		select {
		case <-ctx.Done():
			return
		case image := <-r.queue:
			err := r.hashes.read(ctx, r.files, image)
			if err == nil {
				known() // before anybody goes on
			}
			r.done(image.File, err)
		}
	}
}

// done lets go of those who wait for a file. A failure is remembered for a while;
// there are never many of them.
func (r *reader) done(file flow.FileID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.wanted[file])
	delete(r.wanted, file)
	if err == nil {
		return
	}
	if len(r.failed) >= maxWanted {
		clear(r.failed)
	}
	r.failed[file] = time.Now()
}

// close lets go of all who wait.
func (r *reader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	for file, done := range r.wanted {
		close(done)
		delete(r.wanted, file)
	}
}
