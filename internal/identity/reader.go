package identity

import (
	"context"
	"errors"
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

// errMoreUrgent: the reading was put off for a file that a connection waits for.
var errMoreUrgent = errors.New("put off")

// reader reads the files of one sandbox, one after the other, so that a large one
// delays no other sandbox. What a connection waits for comes before what nobody has
// asked for yet, and a small file before a large one.
type reader struct {
	files  Files
	hashes *Hashes
	wake   chan struct{} // there is something to read

	mu      sync.Mutex
	wanted  map[flow.FileID]*job
	failed  map[flow.FileID]time.Time // of the last second
	urgent  int                       // jobs that are urgent
	closing bool
}

// job is a file that is wanted.
type job struct {
	image  flow.Image
	urgent bool          // a connection waits for it
	done   chan struct{} // closed once it was tried
}

func newReader(files Files, hashes *Hashes) *reader {
	return &reader{
		files: files, hashes: hashes, wake: make(chan struct{}, 1),
		wanted: map[flow.FileID]*job{}, failed: map[flow.FileID]time.Time{},
	}
}

// want has an image's file read. It returns what is closed once that was tried; nil
// where there is nothing to wait for. An urgent one takes the place of one that is
// not, where there is no room.
func (r *reader) want(image flow.Image, urgent bool) <-chan struct{} {
	if !r.hashes.judgeable(image) || r.hashes.of(image.File) != "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if j, ok := r.wanted[image.File]; ok {
		if urgent && !j.urgent {
			j.urgent = true
			r.urgent++
		}
		return j.done
	}
	if at, ok := r.failed[image.File]; r.closing || ok && time.Since(at) < failureKept {
		return nil
	}
	if len(r.wanted) >= maxWanted && (!urgent || !r.makeRoom()) {
		return nil
	}
	j := &job{image: image, urgent: urgent, done: make(chan struct{})}
	r.wanted[image.File] = j
	if urgent {
		r.urgent++
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return j.done
}

// makeRoom lets go of a job that nobody asked for. The caller holds mu.
func (r *reader) makeRoom() bool {
	for _, j := range r.wanted {
		if !j.urgent {
			r.end(j)
			return true
		}
	}
	return false
}

// end lets go of those who wait for a job. The caller holds mu.
func (r *reader) end(j *job) {
	if r.wanted[j.image.File] != j {
		return // let go of before
	}
	delete(r.wanted, j.image.File)
	if j.urgent {
		r.urgent--
	}
	close(j.done)
}

// run reads what is wanted until the context ends, and calls known after each file.
func (r *reader) run(ctx context.Context, known func()) {
	defer r.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		for j := r.next(); j != nil && ctx.Err() == nil; j = r.next() {
			err := r.hashes.read(ctx, r.files, j.image, func() bool { return r.putOff(j) })
			if errors.Is(err, errMoreUrgent) {
				continue
			}
			if err == nil {
				known() // before anybody goes on
			}
			r.finish(j, err)
		}
	}
}

// next returns the job to do, without taking it out; nil for none.
func (r *reader) next() *job {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first *job
	for _, j := range r.wanted {
		if first == nil || j.urgent && !first.urgent || j.urgent == first.urgent && j.image.File.Size < first.image.File.Size {
			first = j
		}
	}
	return first
}

// putOff reports whether a job must make way.
func (r *reader) putOff(j *job) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !j.urgent && r.urgent > 0
}

// finish ends a job. A failure is remembered for a while; there are never many.
func (r *reader) finish(j *job, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if len(r.failed) >= maxWanted {
			clear(r.failed)
		}
		r.failed[j.image.File] = time.Now()
	}
	r.end(j)
}

// close lets go of all who wait.
func (r *reader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	for _, j := range r.wanted {
		r.end(j)
	}
}
