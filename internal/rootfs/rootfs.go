// Package rootfs looks into a sandbox's root directory from outside: where a path
// leads in there, and whether a user of the sandbox could make it lead elsewhere.
//
// A walk goes hop by hop over descriptors. The kernel is asked for one name in one
// directory at a time, never to follow a link or to go up, so nothing in the tree
// leads out of it. Files are looked at, and opened only by Open. What the answer is
// used for is not known here.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Why a path leads to nothing that counts. What does not exist is fs.ErrNotExist.
var (
	ErrPath    = errors.New("not an absolute, clean path")
	ErrLoop    = errors.New("too many symbolic links")
	ErrTooLong = errors.New("too long a way")
	ErrNotFile = errors.New("not a regular file")
	// ErrProc: the links of procfs lead where no path does, into other processes.
	ErrProc = errors.New("leads through procfs")
)

// Link is where a path leads.
type Link struct {
	Target   string // absolute, as seen in the root, with no symbolic link in it
	Hops     int    // symbolic links followed
	Writable bool   // the user can change where the path leads, or what is there
}

// Root is a root directory. It is safe for concurrent use.
type Root struct{ dir *os.File }

// New returns the root that a directory is. The descriptor may be of the O_PATH
// kind; it stays the caller's, who closes it after the last walk.
func New(dir *os.File) *Root { return &Root{dir} }

// Follow returns where an absolute, clean path leads for a program in the root,
// and whether a user could change it. Where that is no regular file, there is an
// error and no link.
//
// visit, if there is one, is called with the descriptor of each directory before
// a name is looked up in it, found or not. So a watch that it sets misses no
// change of what Follow sees. The descriptor is valid for the call.
func (r *Root) Follow(path string, user User, visit func(dir int)) (Link, error) {
	if path != filepath.Clean(path) {
		return Link{}, fmt.Errorf("follow %q: %w", path, ErrPath)
	}
	w := walk{user: user, visit: visit}
	defer w.close()
	if err := w.follow(r.dir, path); err != nil {
		return Link{}, fmt.Errorf("follow %q: %w", path, err)
	}
	return w.link, nil
}

// Open opens for reading what a path leads to, as Follow does: the path need not be
// clean, and may lead to a directory, in which the user then must not be able to
// make entries. What is said of the link is said of the file that was opened, so
// that there is no moment in between.
func (r *Root) Open(path string, user User) (*os.File, Link, error) {
	w := walk{user: user}
	defer w.close()
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
	switch err := w.follow(r.dir, path); {
	case errors.Is(err, errDirectory):
		w.end()
		flags |= unix.O_DIRECTORY
	case err != nil:
		return nil, Link{}, fmt.Errorf("open %q: %w", path, err)
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(w.top().fd), flags, 0)
	if err != nil {
		return nil, Link{}, fmt.Errorf("open %q: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), w.link, nil
}

// Hold returns an O_PATH descriptor of what a path leads to, of whatever kind; the
// caller closes it. planted says that a symbolic link that was followed was put
// there by the user, or could have been. The path need not be clean.
func (r *Root) Hold(path string, user User) (fd int, planted bool, err error) {
	w := walk{user: user}
	defer w.close()
	if err := w.follow(r.dir, path); err != nil && !errors.Is(err, ErrNotFile) {
		return -1, false, fmt.Errorf("hold %q: %w", path, err)
	}
	fd, err = unix.FcntlInt(uintptr(w.top().fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, false, fmt.Errorf("hold %q: %w", path, err)
	}
	return fd, w.planted, nil
}

// Visit calls visit with each directory that decides where an absolute path leads,
// as Follow does, and with the directory that it leads to, if it is one. The path
// need not be clean, nor lead anywhere: an error says that some of the directories
// were not visited.
func (r *Root) Visit(path string, visit func(dir int)) error {
	w := walk{visit: visit}
	defer w.close()
	err := w.follow(r.dir, path)
	switch {
	case errors.Is(err, errDirectory):
		visit(w.top().fd)
		return nil
	case err == nil, errors.Is(err, ErrNotFile), errors.Is(err, ErrLoop),
		errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil
	}
	return fmt.Errorf("visit the directories of %q: %w", path, err)
}
