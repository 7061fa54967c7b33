// Package cgroup makes, kills and removes the cgroup of a sandbox.
//
// It finds the cgroup2 hierarchy wherever the host has mounted it (beside v1
// controllers or alone), because the hooks follow cgroups and every local
// sandbox is one directory of that hierarchy. Resource limits and v1 controllers
// have no place here, and nothing here knows about sandboxes or BPF.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// An UnsupportedError says what the kernel, or the way it was set up, lacks.
type UnsupportedError struct {
	Feature string // what is needed
	Since   string // first kernel that has it
	Err     error  // what was seen
}

// Error names the feature, the kernel to have and what was seen.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s is needed (Linux %s or newer): %v", e.Feature, e.Since, e.Err)
}

// Unwrap returns what was seen.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// Errors inside an UnsupportedError, and of paths.
var (
	errNotMounted = errors.New("no cgroup2 file system is mounted")
	// ErrNotCgroup is returned for a directory that is not in a cgroup2 hierarchy.
	ErrNotCgroup = errors.New("not a cgroup2 directory")
)

// needed is the requirement that the kernel fails when err was seen. cgroup.kill
// came last of what is used (5.14); CLONE_INTO_CGROUP is older (5.7).
func needed(err error) error {
	return &UnsupportedError{Feature: "a writable cgroup2 hierarchy with cgroup.kill", Since: "5.14", Err: err}
}

// Find returns where the cgroup2 hierarchy is mounted.
//
// A mount of the whole hierarchy is preferred to one of a part. The error is an
// *UnsupportedError where there is none.
func Find() (string, error) {
	mounts, err := Mounts("/proc/self/mountinfo", "cgroup2")
	if err != nil {
		return "", err
	}
	if root := choose(mounts); root != "" {
		return root, nil
	}
	return "", needed(errNotMounted)
}

// choose returns where to work, of all cgroup2 mounts; "" where there is none.
func choose(mounts []Mount) string {
	for _, m := range mounts {
		if m.Root == "/" {
			return m.Point
		}
	}
	if len(mounts) == 0 {
		return ""
	}
	return mounts[0].Point
}

// Group is one cgroup, held open. It is the caller's to Close; that does not
// remove it.
type Group struct {
	path string
	id   uint64
	dir  *os.File
}

// Create makes the cgroup at an absolute path inside the cgroup2 hierarchy. The
// parent must exist, and the cgroup must not: a leftover is for Open and Remove.
func Create(path string) (*Group, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		if errors.Is(err, unix.EROFS) {
			return nil, needed(err)
		}
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	g, err := Open(path)
	if err != nil {
		_ = os.Remove(path) // undo; err says what matters
		return nil, err
	}
	return g, nil
}

// Open returns the existing cgroup at path.
func Open(path string) (*Group, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	g, err := fromDir(path, dir)
	if err != nil {
		_ = dir.Close()
		return nil, err
	}
	return g, nil
}

func fromDir(path string, dir *os.File) (*Group, error) {
	var fsys unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fsys); err != nil {
		return nil, fmt.Errorf("stat cgroup %s: %w", path, err)
	}
	if fsys.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, fmt.Errorf("open cgroup %s: %w", path, ErrNotCgroup)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat cgroup %s: %w", path, err)
	}
	// The root cgroup has no cgroup.kill on any kernel.
	if _, err := os.Stat(filepath.Join(path, "cgroup.kill")); err != nil && !isRoot(path) {
		return nil, needed(err)
	}
	return &Group{path: path, id: st.Ino, dir: dir}, nil
}

// isRoot: only cgroups below the root have a cgroup.type.
func isRoot(path string) bool {
	_, err := os.Stat(filepath.Join(path, "cgroup.type"))
	return errors.Is(err, fs.ErrNotExist)
}

// Path returns the directory.
func (g *Group) Path() string { return g.path }

// ID returns the cgroup's id, as bpf_get_current_cgroup_id tells it: on cgroup2
// the inode number of the directory is the kernel's own 64-bit id.
func (g *Group) ID() uint64 { return g.id }

// File returns the open directory, for CLONE_INTO_CGROUP and for attaching
// hooks. It stays the group's.
func (g *Group) File() *os.File { return g.dir }

// Close lets go of the directory.
func (g *Group) Close() error { return g.dir.Close() }

// Procs returns the ids of the processes that are in this cgroup itself.
func (g *Group) Procs() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(g.path, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("read cgroup processes: %w", err)
	}
	return strings.Fields(string(text)), nil
}
