package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of one walk; a sandbox may have made what is walked.
const (
	maxLinks = 40 // as the kernel has it
	// maxLookups bounds the work, and the descriptors that are open at a time. The
	// kernel has no such bound: a path beyond it works in the sandbox, and leads
	// nowhere here.
	maxLookups = 512
	maxTarget  = unix.PathMax // bytes of a link's text
)

// errDirectory is how a path ends that leads to a directory.
var errDirectory = fmt.Errorf("a directory: %w", ErrNotFile)

// walk is one walk from the root.
type walk struct {
	user    User
	visit   func(dir int)
	nodes   []node // from the root to where the walk stands
	lookups int
	link    Link
	planted bool // a link was followed that the user could have put there
}

// node is a file on the way, held by an O_PATH descriptor. All that is known of
// it is read from the descriptor: a file that takes its place meanwhile is another
// file, and cannot lend it its text, owner or mode.
type node struct {
	fd   int
	name string
	stat unix.Stat_t
}

// follow walks to the end of a path, and fills in the link.
func (w *walk) follow(root *os.File, path string) error {
	if !filepath.IsAbs(path) {
		return ErrPath
	}
	if err := w.start(root); err != nil {
		return err
	}
	for {
		name, rest, more := strings.Cut(strings.TrimLeft(path, "/"), "/")
		path = rest
		switch name {
		case "":
			return errDirectory
		case ".":
			continue
		case "..":
			w.up()
			continue
		}
		if err := w.look(name); err != nil {
			return err
		}
		switch w.top().stat.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
		case unix.S_IFLNK:
			target, err := w.jump()
			if err != nil {
				return err
			}
			path = target
			if more { // also where nothing follows the slash: a file has none
				path += "/" + rest
			}
		case unix.S_IFREG:
			if more {
				return unix.ENOTDIR
			}
			w.end()
			return nil
		default:
			if more {
				return unix.ENOTDIR
			}
			return ErrNotFile
		}
	}
}

// start puts the walk at the root.
func (w *walk) start(root *os.File) error {
	raw, err := root.SyscallConn()
	if err != nil {
		return fmt.Errorf("use root directory: %w", err)
	}
	fd := -1
	controlErr := raw.Control(func(dir uintptr) {
		fd, err = unix.Openat(int(dir), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if controlErr != nil {
		return fmt.Errorf("use root directory: %w", controlErr)
	}
	if err != nil {
		return fmt.Errorf("open root directory: %w", err)
	}
	return w.push(fd, "")
}

// push goes on to a file. The descriptor is the walk's from here on.
func (w *walk) push(fd int, name string) error {
	w.nodes = append(w.nodes, node{fd: fd, name: name})
	if err := unix.Fstat(fd, &w.top().stat); err != nil {
		return fmt.Errorf("stat %q: %w", name, err)
	}
	return nil
}

func (w *walk) top() *node { return &w.nodes[len(w.nodes)-1] }

// up goes to the directory through which the walk came here; the root is its own.
func (w *walk) up() { w.truncate(max(len(w.nodes)-1, 1)) }

func (w *walk) truncate(length int) {
	for _, n := range w.nodes[length:] {
		unix.Close(n.fd)
	}
	w.nodes = w.nodes[:length]
}

func (w *walk) close() { w.truncate(0) }

// look goes to the entry of this name in the directory in which the walk stands.
func (w *walk) look(name string) error {
	if w.lookups++; w.lookups > maxLookups {
		return ErrTooLong
	}
	dir := w.top().fd
	if w.visit != nil {
		w.visit(dir)
	}
	var before, after unix.Stat_t
	if err := unix.Fstat(dir, &before); err != nil {
		return fmt.Errorf("stat directory: %w", err)
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := w.push(fd, name); err != nil {
		return err
	}
	var file unix.Statfs_t
	if err := unix.Fstatfs(fd, &file); err != nil {
		return fmt.Errorf("find file system of %q: %w", name, err)
	}
	if file.Type == unix.PROC_SUPER_MAGIC {
		return ErrProc
	}
	if err := unix.Fstat(dir, &after); err != nil {
		return fmt.Errorf("stat directory: %w", err)
	}
	// A directory that changed meanwhile may have been the user's for a moment, in
	// which the entry was put there. Who watches it looks again anyway. Its time is
	// not enough: it changes a moment before the entry does and after the mode, and
	// before Linux 6.13 once a tick.
	entry := &w.top().stat
	if before.Ctim != after.Ctim || w.user.mayReplace(dir, &before, fd, entry) || w.user.mayReplace(dir, &after, fd, entry) {
		w.link.Writable = true
	}
	return nil
}

// jump leaves the symbolic link to which the walk has come, for the directory from
// which its text counts, and returns the text.
func (w *walk) jump() (string, error) {
	if w.link.Hops == maxLinks {
		return "", ErrLoop
	}
	w.link.Hops++
	// Where the user could replace a directory above, or the link.
	w.planted = w.planted || w.link.Writable
	buf := make([]byte, maxTarget)
	n, err := unix.Readlinkat(w.top().fd, "", buf)
	if err != nil {
		return "", fmt.Errorf("read link %q: %w", w.top().name, err)
	}
	switch n {
	case 0:
		return "", unix.ENOENT // as the kernel has it; some file systems allow it
	case len(buf):
		return "", ErrTooLong
	}
	target := string(buf[:n])
	if filepath.IsAbs(target) {
		w.truncate(1)
	} else {
		w.up()
	}
	return target, nil
}

// end fills in the link at the file or directory to which the walk has come.
func (w *walk) end() {
	file := w.top()
	if w.user.mayWrite(file.fd, &file.stat) {
		w.link.Writable = true
	}
	for _, n := range w.nodes[1:] {
		w.link.Target += "/" + n.name
	}
}
