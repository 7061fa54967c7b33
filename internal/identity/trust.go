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

// Trusted is what a table remembers of a path: the file that was used first under it.
type Trusted struct {
	Path   []byte      `json:"path"` // need not be UTF-8
	File   flow.FileID `json:"file"`
	SHA256 string      `json:"sha256,omitempty"` // empty until it is known
	// Hashable: the hash of the file says what ran.
	Hashable bool `json:"hashable,omitempty"`
	// Forgotten: whatever is used next is trusted.
	Forgotten bool `json:"forgotten,omitempty"`
}

// trust is trust on first use: it remembers, as long as the sandbox lives, which
// file was first used under each path.
type trust struct {
	// remember is told of what is new, before it counts; nil where nothing outlives
	// the agent.
	remember func(Trusted) error

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

// newTrust returns a trust that knows what it was told to remember, in that order.
func newTrust(known []Trusted, remember func(Trusted) error) *trust {
	t := &trust{remember: remember, paths: map[string]*trusted{}}
	for _, k := range known {
		if k.Forgotten {
			delete(t.paths, string(k.Path))
		} else {
			t.paths[string(k.Path)] = &trusted{files: []flow.FileID{k.File}, sha256: k.SHA256, hashable: k.Hashable}
		}
	}
	return t
}

// note remembers the first file of a path, as it is known now.
func (t *trust) note(path string, known *trusted) error {
	if t.remember == nil {
		return nil
	}
	return t.remember(Trusted{Path: []byte(path), File: known.files[0], SHA256: known.sha256, Hashable: known.hashable})
}

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
		first := &trusted{files: []flow.FileID{image.File}, sha256: image.SHA256, hashable: hashable}
		if t.note(image.Path, first) != nil {
			return false // the next agent would not know it
		}
		t.paths[image.Path] = first
		return true
	}
	if known.sha256 == "" && known.hashable {
		if known.sha256 = hashes.of(known.files[0]); known.sha256 != "" {
			_ = t.note(image.Path, known) // without it the next agent trusts less
		}
	}
	if slices.Contains(known.files, image.File) {
		return true
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

// forget lets go of a path. Where that is not remembered, the next agent trusts it as
// before.
func (t *trust) forget(path string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.paths, path)
	if t.remember == nil {
		return nil
	}
	return t.remember(Trusted{Path: []byte(path), Forgotten: true})
}
