package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// scratchRoot holds one directory for each live Env of the machine. It is not in
// /tmp, where other users could prepare names for root to trip over.
const scratchRoot = "/run/ringfence-testenv"

// scratch is the directory of one Env. Its lock file is held as long as the
// process lives, so a free lock marks what a killed process left behind.
type scratch struct {
	dir  string
	lock *os.File
}

func newScratch() (*scratch, error) { return newScratchIn(scratchRoot) }

func newScratchIn(root string) (*scratch, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make scratch root: %w", err)
	}
	// One at a time: a directory must not be swept before its lock is taken.
	gate, err := lockFile(filepath.Join(root, "lock"), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	sweep(root)
	dir, err := os.MkdirTemp(root, "env-")
	if err != nil {
		return nil, fmt.Errorf("make scratch directory: %w", err)
	}
	lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &scratch{dir: dir, lock: lock}, nil
}

// sweep removes the directories whose lock is free. What cannot be removed now
// is left to the next sweep.
func sweep(root string) {
	dirs, _ := filepath.Glob(filepath.Join(root, "env-*")) // the pattern is well formed
	for _, dir := range dirs {
		lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue
		}
		_ = os.RemoveAll(dir)
		_ = lock.Close()
	}
}

func lockFile(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = unix.Flock(int(file.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}

// Path returns the path of a file in the directory.
func (s *scratch) Path(name string) string { return filepath.Join(s.dir, name) }

// Close removes the directory.
func (s *scratch) Close() error {
	return errors.Join(os.RemoveAll(s.dir), s.lock.Close())
}
