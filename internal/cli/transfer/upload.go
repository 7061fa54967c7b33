package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
)

// Upload copies a file or directory of this host's into the sandbox: into remote where
// that is a directory, else as remote. What ends in "/." is copied without itself.
func (c *Copy) Upload(local, remote string) error {
	info, err := os.Stat(local)
	if err != nil {
		return err
	}
	there, statErr := c.client.Stat(remote)
	into := statErr == nil && there.IsDir()
	if !info.IsDir() {
		if into {
			remote = path.Join(remote, filepath.Base(local))
		}
		file, err := os.OpenFile(local, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		return c.uploadFile(file, remote)
	}
	if statErr == nil && !into {
		return whose(remote, syscall.ENOTDIR)
	}
	if into && !contents(local) {
		remote = path.Join(remote, filepath.Base(local))
	}
	root, err := os.OpenRoot(local)
	if err != nil {
		return err
	}
	defer root.Close()
	return c.uploadTree(root, remote, info, 0)
}

func (c *Copy) uploadFile(file *os.File, remote string) error {
	c.begin(remote)
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		c.warn(fmt.Sprintf("%q is left out: it is %s", file.Name(), kind(info.Mode())))
		return nil
	}
	to, err := c.client.OpenFile(remote, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return whose(remote, err)
	}
	_, err = to.ReadFrom(&sized{io.TeeReader(file, counted{io.Discard, &c.bytes}), info.Size()})
	if err == nil {
		err = errors.Join(to.Chmod(info.Mode().Perm()), c.client.Chtimes(remote, info.ModTime(), info.ModTime()))
	}
	return whose(remote, errors.Join(err, to.Close()))
}

// sized tells how long a reader is: then several writes are on their way at once.
type sized struct {
	io.Reader
	size int64
}

func (s *sized) Size() int64 { return s.size }

// uploadTree copies a directory. Symbolic links are made in the sandbox as they are
// here: they are not followed, as what they lead to was not named.
func (c *Copy) uploadTree(root *os.Root, remote string, info fs.FileInfo, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: %w", root.Name(), errTooDeep)
	}
	err := c.client.Mkdir(remote)
	made := err == nil
	if there, statErr := c.client.Stat(remote); err != nil && (statErr != nil || !there.IsDir()) {
		return whose(remote, err)
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := c.uploadEntry(root, entry, path.Join(remote, entry.Name()), depth); err != nil {
			return err
		}
	}
	if !made {
		return nil
	}
	return whose(remote, errors.Join(c.client.Chmod(remote, info.Mode().Perm()), c.client.Chtimes(remote, info.ModTime(), info.ModTime())))
}

func (c *Copy) uploadEntry(root *os.Root, entry fs.DirEntry, remote string, depth int) error {
	name := entry.Name()
	info, err := entry.Info()
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		dir, err := root.OpenRoot(name)
		if err != nil {
			return err
		}
		defer dir.Close()
		return c.uploadTree(dir, remote, info, depth+1)
	case info.Mode().IsRegular():
		file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		return c.uploadFile(file, remote)
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := root.Readlink(name)
		if err != nil {
			return err
		}
		if old, err := c.client.ReadLink(remote); err == nil && old == target {
			return nil
		}
		return whose(remote, c.client.Symlink(target, remote))
	}
	c.warn(fmt.Sprintf("%q is left out: it is %s", filepath.Join(root.Name(), name), kind(info.Mode())))
	return nil
}
