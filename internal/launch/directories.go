package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxNewDirectories bounds a path that is made.
const maxNewDirectories = 64

var errNotEmpty = errors.New("a directory that was just made is not empty or not root's: somebody else is at work there")

// makeDirectories makes what is missing of the paths that may be written. Like
// everything of the policy, one path that cannot be made does not stop the others.
func (f *fence) makeDirectories(paths []string) error {
	for _, p := range paths {
		made, err := makeDirectory(p, int(f.user.UID), int(f.user.GID))
		if made {
			f.warn(fmt.Sprintf("filesystem_policy: %s was missing, and was made", p))
		}
		// What is there but leads elsewhere is judged when it is opened.
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err := f.consider(p, err); err != nil {
			return err
		}
	}
	return nil
}

// makeDirectory makes a missing directory and gives it to a user; directories
// that are missing above it stay root's. It follows no symbolic link anywhere, and
// never changes what was there: so it gives away nothing but what it has made.
func makeDirectory(name string, uid, gid int) (made bool, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	if fd, err := unix.Openat2(unix.AT_FDCWD, name, &how); err != unix.ENOENT {
		if err == nil {
			_ = unix.Close(fd)
		}
		return false, err
	}
	names := strings.Split(strings.Trim(path.Clean(name), "/"), "/")
	if len(names) > maxNewDirectories {
		return false, unix.ENAMETOOLONG
	}
	dir, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(dir) }()
	for i, n := range names {
		next, isNew, err := enterOrMake(dir, n)
		if err != nil {
			return false, fmt.Errorf("make %s: %w", "/"+path.Join(names[:i+1]...), err)
		}
		_ = unix.Close(dir)
		dir = next
		made = isNew
	}
	if !made {
		return false, nil // somebody else was faster, and it is theirs
	}
	if err := unix.Fchown(dir, uid, gid); err != nil {
		return false, fmt.Errorf("give %s to the sandbox's user: %w", name, err)
	}
	return true, nil
}

// enterOrMake opens a directory of this name in another, making it where it is
// missing.
func enterOrMake(dir int, name string) (fd int, isNew bool, err error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err = unix.Openat(dir, name, flags, 0)
	if err != unix.ENOENT {
		return fd, false, err
	}
	if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		return -1, false, err
	}
	if fd, err = unix.Openat(dir, name, flags, 0); err != nil {
		return -1, false, err
	}
	if err := ownNew(fd); err != nil {
		_ = unix.Close(fd)
		return -1, false, err
	}
	return fd, true, nil
}

// ownNew sets the mode of a directory that was made, whatever the umask. Where
// others may write above it, they could have put another in its place: but only
// an empty one of root's is taken for it, and that is worth nothing to anyone.
func ownNew(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	copied, err := unix.Dup(fd)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(copied), "new directory")
	defer d.Close()
	if _, err := d.Readdirnames(1); !errors.Is(err, io.EOF) || st.Uid != 0 {
		return errors.Join(errNotEmpty, err)
	}
	return unix.Fchmod(fd, 0o755)
}
