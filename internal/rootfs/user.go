package rootfs

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// User is who might change a path. It is taken to have no capabilities and no way
// to other uids, as a user of a sandbox has none.
type User struct {
	UID, GID uint32
	Groups   []uint32 // besides GID
	anybody  bool
}

// Others returns everybody but root.
func Others() User { return User{anybody: true} }

// Where it is not plain that a user may not write, these say that it may. So
// read-only mounts and flags such as "immutable" do not count: the same file may
// be writable elsewhere in the root.

// mayWrite reports whether the user can write to a file or directory, or give
// itself the mode to.
func (u User) mayWrite(fd int, st *unix.Stat_t) bool {
	switch {
	case u.anybody:
		return st.Uid != 0 || st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0
	case u.UID == 0, u.UID == st.Uid:
		return true
	case st.Mode&unix.S_IWOTH != 0:
		return true
	case st.Mode&unix.S_IWGRP != 0:
		return u.GID == st.Gid || slices.Contains(u.Groups, st.Gid) || hasACL(fd)
	}
	return false
}

// mayReplace reports whether the user can put something else in the place of a
// directory's entry, or have put it there. A symbolic link's own owner could do no
// more: its text cannot be changed.
//
// A sticky directory keeps a user from replacing what is another's. But a link or
// a file of another's can have been moved there from a directory of the user's; a
// directory only if the user can write in it.
func (u User) mayReplace(fd int, dir *unix.Stat_t, entryFD int, entry *unix.Stat_t) bool {
	if !u.mayWrite(fd, dir) {
		return false
	}
	sticky := dir.Mode&unix.S_ISVTX != 0 && entry.Mode&unix.S_IFMT == unix.S_IFDIR && !u.mayWrite(entryFD, entry)
	return !sticky || u.owns(dir) || u.owns(entry)
}

func (u User) owns(st *unix.Stat_t) bool {
	if u.anybody {
		return st.Uid != 0
	}
	return u.UID == 0 || u.UID == st.Uid
}

// hasACL reports whether an ACL may name further users and groups. What it gives
// them at most stands in the mode's group bits.
func hasACL(fd int) bool {
	_, err := unix.Getxattr("/proc/self/fd/"+strconv.Itoa(fd), "system.posix_acl_access", nil)
	return err != unix.ENODATA && err != unix.EOPNOTSUPP
}
