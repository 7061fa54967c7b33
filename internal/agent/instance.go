package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/datapath"
)

// Where an instance keeps what outlives its process.
const (
	stateRoot  = "/run/ringfence"
	pinRoot    = "/sys/fs/bpf/ringfence"
	cgroupRoot = "ringfence" // below the cgroup2 mount
	namePrefix = "run-"
)

const (
	maxInstances   = 1 << 16 // one reserved uid each
	claimAttempts  = 64
	leftoverKilled = 5 * time.Second
)

// instance is one agent's claim on a number, or on a name: a directory with a lock
// file, a cgroup and a directory of pins. The lock ends with the process, however it
// ends: a numbered instance whose lock is free is a leftover, whatever there is of it,
// and a named one waits for its next agent. The agent locks the cgroup as well, so
// that one whose directory somebody removed under it is not taken for dead.
type instance struct {
	number uint32
	dir    string
	lock   *os.File
	named  bool
	// found: another agent has left something of a named one.
	found bool
}

// claimInstance removes leftovers and claims a name, or a free number where there is
// none.
func claimInstance(ctx context.Context, name string, log *slog.Logger) (*instance, error) {
	if err := makeDir(stateRoot, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	// Held while leftovers are told from claims that are just being made.
	global, err := lockFile(filepath.Join(stateRoot, "lock"), os.O_CREATE, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer global.Close()
	removeLeftovers(log)
	if name != "" {
		return claimName(ctx, name)
	}
	for range claimAttempts {
		number := rand.Uint32N(maxInstances) //nolint:gosec // only has to be free, not secret
		dir := filepath.Join(stateRoot, namePrefix+strconv.FormatUint(uint64(number), 10))
		if partExists(filepath.Base(dir)) {
			continue // of one that could not be removed
		}
		err := os.Mkdir(dir, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("claim instance: %w", err)
		}
		lock, err := lockFile(filepath.Join(dir, "lock"), os.O_CREATE, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		return &instance{number: number, dir: dir, lock: lock}, nil
	}
	return nil, fmt.Errorf("claim instance: no free number after %d attempts", claimAttempts)
}

func (i *instance) name() string { return filepath.Base(i.dir) }

func (i *instance) pinDir() string { return filepath.Join(pinRoot, i.name()) }

func (i *instance) cgroup(root string) string { return filepath.Join(root, cgroupRoot, i.name()) }

// release gives the number back. The directory goes while the lock is held.
func (i *instance) release() error {
	return errors.Join(os.RemoveAll(i.dir), i.unlock())
}

func (i *instance) unlock() error {
	if i.lock == nil {
		return nil
	}
	return i.lock.Close()
}

// removeLeftovers removes what agents left that were killed. One that cannot be
// removed stays fenced, and is tried again at the next start.
func removeLeftovers(log *slog.Logger) {
	for _, name := range instanceNames() {
		switch removed, err := removeLeftover(name); {
		case err != nil:
			log.Warn("could not remove what a dead agent left", "instance", name, "error", err)
		case removed:
			log.Info("removed what a dead agent left", "instance", name)
		}
	}
}

// roots are where parts of an instance lie, each under the instance's name.
func roots() []string {
	dirs := []string{stateRoot, pinRoot}
	if root, err := cgroup.Find(); err == nil { // else what follows says so
		dirs = append(dirs, filepath.Join(root, cgroupRoot))
	}
	return dirs
}

// instanceNames returns the name of everything that is an instance or a part of one.
func instanceNames() []string {
	var names []string
	for _, dir := range roots() {
		paths, err := filepath.Glob(filepath.Join(dir, namePrefix+"*"))
		if err != nil {
			continue // only for a malformed pattern
		}
		for _, path := range paths {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func partExists(name string) bool {
	return slices.ContainsFunc(roots(), func(dir string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return err == nil
	})
}

// removeLeftover removes an instance if its agent is dead.
//
// It never makes the lock file: an agent that is just releasing its instance would
// find a directory that it cannot remove. Without one the instance is such, or it
// was killed while it claimed its number, or somebody cleaned up in the wrong
// place; then its cgroup tells whether it lives.
func removeLeftover(name string) (removed bool, err error) {
	dead := &instance{dir: filepath.Join(stateRoot, name)}
	dead.lock, err = lockFile(filepath.Join(dead.dir, "lock"), unix.O_NOFOLLOW, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil // its agent lives
	}
	if err != nil && !isNoLock(err) {
		return false, err
	}
	if err := dead.remove(); !errors.Is(err, errCgroupHeld) {
		return err == nil, err
	}
	return false, nil
}

// isNoLock: there is nothing that an agent could have locked.
func isNoLock(err error) bool {
	return errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ELOOP)
}

// remove ends what is left of an instance, processes first, hooks after them, and
// gives the number back. What it cannot remove is a leftover from then on.
func (i *instance) remove() error {
	root, err := cgroup.Find()
	if err == nil {
		err = removeCgroup(i.cgroup(root))
	}
	if err == nil {
		err = datapath.Unpin(i.pinDir())
	}
	if err != nil {
		return errors.Join(err, i.unlock())
	}
	return i.release()
}

// errCgroupHeld: a living agent has the cgroup.
var errCgroupHeld = errors.New("cgroup is held by an agent")

func removeCgroup(path string) error {
	group, err := cgroup.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer group.Close()
	if err := holdCgroup(group); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), leftoverKilled)
	defer cancel()
	if err := group.Kill(ctx); err != nil {
		return err
	}
	return group.Remove()
}

// holdCgroup marks a cgroup as a living agent's, until the group is closed.
func holdCgroup(group *cgroup.Group) error {
	err := unix.Flock(int(group.File().Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock %s: %w", group.Path(), errCgroupHeld)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", group.Path(), err)
	}
	return nil
}

// lockFile opens a lock file, and makes it where flag is os.O_CREATE.
func lockFile(path string, flag, how int) (*os.File, error) {
	file, err := os.OpenFile(path, flag|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), how); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", strings.TrimPrefix(path, stateRoot+"/"), err)
	}
	return file, nil
}

func makeDir(path string, mode fs.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
