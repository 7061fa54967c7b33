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
}

func newTrust() *trust { return &trust{paths: map[string]*trusted{}} }

// accepts reports whether a file may be used under a path: the first one may, and
// whatever has the same content. A hash that is empty is not known.
func (t *trust) accepts(path string, file flow.FileID, sha256 string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.paths[path]
	switch {
	case known == nil && len(t.paths) >= maxPaths:
		return false // it cannot be told what is used first
	case known == nil:
		t.paths[path] = &trusted{files: []flow.FileID{file}, sha256: sha256}
		return true
	case slices.Contains(known.files, file):
		if known.sha256 == "" {
			known.sha256 = sha256
		}
		return true
	case sha256 == "" || sha256 != known.sha256:
		return false
	}
	if len(known.files) == maxFiles {
		known.files = slices.Delete(known.files, 0, 1)
	}
	known.files = append(known.files, file)
	return true
}

func (t *trust) forget(path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.paths, path)
}
