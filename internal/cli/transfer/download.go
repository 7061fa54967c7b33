package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/pkg/sftp"
)

// Download copies a file or directory of the sandbox's to this host: into local where
// that is a directory, else as local. What ends in "/." is copied without itself.
func (c *Copy) Download(remote, local string) error {
	info, err := c.client.Stat(remote)
	if err != nil {
		return whose(remote, err)
	}
	switch {
	case info.IsDir():
		return c.downloadDir(remote, local, info)
	case !info.Mode().IsRegular():
		return whose(remote, errors.New("is neither a file nor a directory"))
	}
	dir, name := filepath.Split(local)
	if here, err := os.Stat(local); err == nil && here.IsDir() {
		dir, name = local, path.Base(remote)
	} else if err == nil {
		// The person named it: where it leads is what is meant.
		whole, err := filepath.EvalSymlinks(local)
		if err != nil {
			return err
		}
		dir, name = filepath.Split(whole)
	}
	if !isName(name) {
		return &fs.PathError{Op: "write", Path: local, Err: syscall.EISDIR}
	}
	root, err := os.OpenRoot(orHere(dir))
	if err != nil {
		return err
	}
	defer root.Close()
	return c.downloadFile(root, remote, name, info)
}

func orHere(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}

func (c *Copy) downloadDir(remote, local string, info fs.FileInfo) error {
	if here, err := os.Stat(local); err == nil {
		if !here.IsDir() {
			return &fs.PathError{Op: "write", Path: local, Err: syscall.ENOTDIR}
		}
		if !contents(remote) {
			local = filepath.Join(local, path.Base(remote))
		}
	}
	parent, err := os.OpenRoot(filepath.Dir(filepath.Clean(local)))
	if err != nil {
		return err
	}
	defer parent.Close()
	name := filepath.Base(filepath.Clean(local))
	if !isName(name) { // ".", "/": it is there
		return c.downloadTree(parent, remote, "", 0)
	}
	return c.intoDir(parent, name, info, func(root *os.Root) error { return c.downloadTree(root, remote, "", 0) })
}

// intoDir makes a directory, where there is none, and calls fn with it. It gets its
// mode last: it may be one that nothing can be written into.
func (c *Copy) intoDir(parent *os.Root, name string, info fs.FileInfo, fn func(*os.Root) error) error {
	err := parent.Mkdir(name, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := parent.OpenRoot(name)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := fn(root); err != nil || !made {
		return err
	}
	return errors.Join(
		parent.Chmod(name, info.Mode().Perm()),
		parent.Chtimes(name, info.ModTime(), info.ModTime()),
	)
}

// downloadTree copies what is in a directory. Shown is its path for a person.
func (c *Copy) downloadTree(root *os.Root, remote, shown string, depth int) error {
	if depth > maxDepth {
		return whose(remote, errTooDeep)
	}
	entries, err := c.client.ReadDir(remote)
	if err != nil {
		return whose(remote, err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if !isName(name) {
			return whose(remote, fmt.Errorf("the name of an entry, %q, is none", name))
		}
		from, to := path.Join(remote, name), path.Join(shown, name)
		switch {
		case entry.IsDir():
			err = c.intoDir(root, name, entry, func(dir *os.Root) error { return c.downloadTree(dir, from, to, depth+1) })
		case entry.Mode().IsRegular():
			err = c.downloadFile(root, from, name, entry)
		default:
			c.warn(fmt.Sprintf("%q is left out: it is %s", to, kind(entry.Mode())))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func kind(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a pipe"
	case fs.ModeSocket:
		return "a socket"
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		return "a device"
	}
	return "no file"
}

func (c *Copy) downloadFile(root *os.Root, remote, name string, info fs.FileInfo) error {
	c.begin(remote)
	from, err := c.client.Open(remote)
	if err != nil {
		return whose(remote, err)
	}
	defer from.Close()
	// O_NONBLOCK: a pipe that is there already must not hold us.
	to, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	_, err = from.WriteTo(counted{to, &c.bytes})
	if err == nil {
		err = errors.Join(to.Chmod(info.Mode().Perm()), root.Chtimes(name, info.ModTime(), info.ModTime()))
	} else if status := (*sftp.StatusError)(nil); errors.As(err, &status) {
		err = whose(remote, err)
	}
	return errors.Join(err, to.Close())
}
