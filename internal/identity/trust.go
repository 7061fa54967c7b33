package identity

import (
	"slices"
	"sync"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	// maxPaths bounds the paths of one sandbox that are remembered.
	maxPaths = 16384
	// maxFiles bounds the files of one path that are known to have the same content.
	// An older one can be read again.
	maxFiles = 8
)

// trust is trust on first use: it remembers, as long as the sandbox lives, which
// file was first used under each path.
type trust struct {
	mu    sync.Mutex
	paths map[string]*trusted
}

// trusted is what may be used under a path: one content, in these files.
type trusted struct {
	files  []flow.FileID
	sha256 string // empty until one of the files was read
	// hashable: the hash of the first file says what ran there first.
	hashable bool
}

func newTrust() *trust { return &trust{paths: map[string]*trusted{}} }

// accepts reports whether an image's file may be used under its path: the first one
// may, and whatever has the same content. What the first one's is may have become
// known since: hashes is asked. hashable says whether the image's own hash counts.
func (t *trust) accepts(image flow.Image, hashable bool, hashes *Hashes) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.paths[image.Path]
	if known == nil {
		if len(t.paths) >= maxPaths {
			return false // it cannot be told what is used first
		}
		t.paths[image.Path] = &trusted{files: []flow.FileID{image.File}, sha256: image.SHA256, hashable: hashable}
		return true
	}
	if slices.Contains(known.files, image.File) {
		return true
	}
	if known.sha256 == "" && known.hashable {
		known.sha256 = hashes.of(known.files[0])
	}
	if image.SHA256 == "" || image.SHA256 != known.sha256 {
		return false
	}
	if len(known.files) == maxFiles {
		known.files = slices.Delete(known.files, 0, 1)
	}
	known.files = append(known.files, image.File)
	return true
}

func (t *trust) forget(path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.paths, path)
}
