package launch

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// numberOf returns the number of a namespace, as nsfs shows it. ErrForeign means that
// the file is none of that kind.
func numberOf(file *os.File, kind int) (uint64, error) {
	if file == nil {
		return 0, fmt.Errorf("look at namespace: %w: there is none", ErrForeign)
	}
	fd := int(file.Fd())
	// First of all: the same ioctl may do anything to another file.
	var fsys unix.Statfs_t
	if err := unix.Fstatfs(fd, &fsys); err != nil {
		return 0, fmt.Errorf("look at namespace: %w", err)
	}
	if fsys.Type != unix.NSFS_MAGIC {
		return 0, fmt.Errorf("look at namespace: %w: the file is no namespace", ErrForeign)
	}
	got, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || got != kind {
		return 0, fmt.Errorf("look at namespace: %w: it is of kind %#x and not %#x", ErrForeign, got, kind)
	}
	return inodeOfFile(file)
}

// userNSOf returns the number of the user namespace to which a namespace belongs.
func userNSOf(file *os.File) (uint64, error) {
	fd, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return 0, fmt.Errorf("look at the owner of a namespace: %w", err)
	}
	owner := os.NewFile(uintptr(fd), "user")
	defer owner.Close()
	return inodeOfFile(owner)
}

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat namespace %s: %w", path, err)
	}
	return st.Ino, nil
}

func inodeOfFile(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat namespace: %w", err)
	}
	return st.Ino, nil
}
