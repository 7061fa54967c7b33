package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	// maxHashes bounds the files of all sandboxes whose hash is remembered.
	maxHashes = 65536
	// maxFileSize bounds the files that are read, in bytes. A sparse file is as large
	// as its maker says.
	maxFileSize = 1 << 30
	// chunk is how much is read before it is asked whether to go on.
	chunk = 1 << 20
)

// Files gives access to the files of one sandbox.
type Files interface {
	// Open opens a regular file below the sandbox's root for reading. It does not
	// wait for what a special file would have it wait for.
	Open(path string) (*os.File, error)
	// Identify returns which file it is, in the words of exec records.
	Identify(*os.File) (flow.FileID, error)
}

// Why a file has no hash.
var (
	errOtherFile = errors.New("another file is there now")
	errTooLarge  = errors.New("too large to be read")
)

// Hashes knows the SHA-256 of files, by what the kernel says which file it is, and
// so for all sandboxes. It is safe for concurrent use.
type Hashes struct {
	known *lru.Cache[flow.FileID, string]
	// busy has a place for each file that may be read at once.
	busy chan struct{}
	// exclusive: nobody has a file open for writing that is executed.
	exclusive bool
}

// NewHashes returns an empty store.
func NewHashes() (*Hashes, error) {
	known, err := lru.New[flow.FileID, string](maxHashes)
	if err != nil {
		return nil, fmt.Errorf("make hash table: %w", err)
	}
	return &Hashes{known: known, busy: make(chan struct{}, max(2, runtime.GOMAXPROCS(0)/2)), exclusive: isExclusive()}, nil
}

// isExclusive reports whether this kernel refuses to write to a file that is being
// executed. Linux 6.11 and 6.12 had given that up for a while. Where the agent's own
// file cannot be asked, on a read-only file system, the version has to tell.
func isExclusive() bool {
	fd, err := unix.Open("/proc/self/exe", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
		_ = unix.Close(fd)
		return false
	case unix.ETXTBSY:
		return true
	}
	var uts unix.Utsname
	var major, minor int
	if unix.Uname(&uts) != nil {
		return false
	}
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major != 6 || minor != 11 && minor != 12
}

// judgeable reports whether the hash of an image's file says what ran. Of a file that
// the program's user can write it does only where no write goes by unseen.
func (h *Hashes) judgeable(image flow.Image) bool {
	return !image.Taints.Has(flow.TaintWritable) || h.exclusive && image.File.Traced()
}

// of returns the hash of a file; "" where it is not known.
func (h *Hashes) of(file flow.FileID) string {
	sum, _ := h.known.Get(file)
	return sum
}

// restore remembers the hashes of before a restart: the same file is not read again.
func (h *Hashes) restore(before []Trust) {
	for _, t := range before {
		for _, file := range t.Files {
			if t.SHA256 != "" {
				h.known.Add(file, t.SHA256)
			}
		}
	}
}

// read reads an image's file and remembers its hash. The kernel says before and
// after that it is the file that ran, with the same size and time of change. It ends
// early where putOff says so.
func (h *Hashes) read(ctx context.Context, files Files, image flow.Image, putOff func() bool) error {
	select {
	case h.busy <- struct{}{}:
		defer func() { <-h.busy }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if image.File.Size > maxFileSize {
		return fmt.Errorf("hash %q: %w", image.Path, errTooLarge)
	}
	file, err := files.Open(image.Path)
	if err != nil {
		return fmt.Errorf("hash %q: %w", image.Path, err)
	}
	defer file.Close()
	isImage := func() error {
		if id, err := files.Identify(file); err != nil || id != image.File {
			return fmt.Errorf("hash %q: %w", image.Path, errors.Join(errOtherFile, err))
		}
		return nil
	}
	if err := isImage(); err != nil {
		return err
	}
	sum := sha256.New()
	rest := io.LimitReader(file, image.File.Size+1) // it may grow meanwhile, without end
	for ctx.Err() == nil {
		if putOff() {
			return errMoreUrgent
		}
		switch _, err := io.CopyN(sum, rest, chunk); {
		case errors.Is(err, io.EOF):
			if err := isImage(); err != nil {
				return err
			}
			h.known.Add(image.File, hex.EncodeToString(sum.Sum(nil)))
			return nil
		case err != nil:
			return fmt.Errorf("hash %q: %w", image.Path, err)
		}
	}
	return ctx.Err()
}
