package identity

import (
	"cmp"
	"slices"
	"sync"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	// maxPaths bounds the paths of one sandbox that are remembered.
	maxPaths = 4096
	// maxFiles bounds the files of one path that are known to have the same content.
	// An older one can be read again.
	maxFiles = 8
	// maxTrustBytes bounds what all of it takes, as it is encoded.
	maxTrustBytes = 512 << 10
)

// Trust is what may be used under one path.
type Trust struct {
	Path   string        // raw bytes
	Files  []flow.FileID // the first that was used there, and those of the same content
	SHA256 string        // of all of them; empty where it is not known
	// Hashable: the hash of the first file says what ran there first.
	Hashable bool
}

// trust is trust on first use: it remembers, as long as the sandbox lives, which
// file was first used under each path.
type trust struct {
	// changed holds a token where something is remembered that was not before.
	changed chan struct{}

	mu    sync.Mutex
	paths map[string]*trusted
	bytes int
}

// trusted is what may be used under a path: one content, in these files.
type trusted struct {
	files  []flow.FileID
	sha256 string // empty until one of the files was read
	// hashable: the hash of the first file says what ran there first.
	hashable bool
}

// newTrust returns the trust of before a restart; of none, an empty one.
func newTrust(before []Trust) *trust {
	t := &trust{changed: make(chan struct{}, 1), paths: map[string]*trusted{}}
	for _, b := range before {
		if len(b.Files) == 0 {
			continue // of nothing
		}
		t.paths[b.Path] = &trusted{files: slices.Clone(b.Files), sha256: b.SHA256, hashable: b.Hashable}
		t.bytes += trustSize(len(b.Path), len(b.Files))
	}
	return t
}

// accepts reports whether an image's file may be used under its path: the first one
// may, and whatever has the same content. What the first one's is may have become
// known since: hashes is asked. hashable says whether the image's own hash counts.
func (t *trust) accepts(image flow.Image, hashable bool, hashes *Hashes) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.paths[image.Path]
	if known == nil {
		size := trustSize(len(image.Path), 1)
		if len(t.paths) >= maxPaths || t.bytes+size > maxTrustBytes {
			return false // it cannot be told what is used first
		}
		t.paths[image.Path] = &trusted{files: []flow.FileID{image.File}, sha256: image.SHA256, hashable: hashable}
		t.bytes += size
		t.touch()
		return true
	}
	if slices.Contains(known.files, image.File) {
		return true
	}
	known.learn(hashes)
	if image.SHA256 == "" || image.SHA256 != known.sha256 {
		return false
	}
	if len(known.files) == maxFiles || t.bytes+fileSize > maxTrustBytes {
		known.files = slices.Delete(known.files, 0, 1)
		t.bytes -= fileSize
	}
	known.files = append(known.files, image.File)
	t.bytes += fileSize
	t.touch()
	return true
}

// learn asks for the hash of the first file, where it was not known.
func (k *trusted) learn(hashes *Hashes) {
	if k.sha256 == "" && k.hashable {
		k.sha256 = hashes.of(k.files[0])
	}
}

func (t *trust) forget(path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.paths[path]; known != nil {
		delete(t.paths, path)
		t.bytes -= trustSize(len(path), len(known.files))
		t.touch()
	}
}

// touch says that there is something to save. It does not wait.
func (t *trust) touch() {
	select {
	case t.changed <- struct{}{}:
	default: // it is said already
	}
}

// all returns a copy of what is trusted, by path.
func (t *trust) all(hashes *Hashes) []Trust {
	all := t.copies(hashes)
	slices.SortFunc(all, func(a, b Trust) int { return cmp.Compare(a.Path, b.Path) })
	return all
}

func (t *trust) copies(hashes *Hashes) []Trust {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Trust, 0, len(t.paths))
	for path, known := range t.paths {
		known.learn(hashes)
		all = append(all, Trust{Path: path, Files: slices.Clone(known.files), SHA256: known.sha256, Hashable: known.hashable})
	}
	return all
}
