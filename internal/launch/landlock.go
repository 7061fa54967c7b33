package launch

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock by its three system calls, on the calling thread alone. A library
// (go-landlock) restricts all threads of a process, opens each path itself when it
// does, and where one right is missing in the kernel, such as moving files between
// directories before Linux 5.19, leaves all of the fence away.

// accessRights are rights to what lies beneath a path, as the kernel numbers them.
type accessRights uint64

const (
	// readRights are those of a path that may be read. Programs there may be
	// executed: to read one is as good, with a loader at hand.
	readRights accessRights = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR

	// writeRights are those of a path that may be written besides. Device nodes are
	// not among what may be made, nor is ioctl on those that somebody put there.
	writeRights = readRights | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX

	// fileRights are those that a path may have which is no directory.
	fileRights accessRights = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_IOCTL_DEV | unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX
)

// Versions of Landlock's interface from which something is there.
const (
	abiRefer       = 2 // Linux 5.19
	abiTruncate    = 3 // Linux 6.2
	abiIoctl       = 5 // Linux 6.10
	abiScopes      = 6 // Linux 6.12
	abiResolveUnix = 9
)

// landlockABI returns the version of the kernel's Landlock; 0 where there is none,
// or where it was not chosen at boot.
func landlockABI() (int, error) {
	abi, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch e {
	case 0:
		return int(abi), nil
	case unix.ENOSYS, unix.EOPNOTSUPP:
		return 0, nil
	}
	return 0, fmt.Errorf("ask for Landlock's version: %w", e)
}

// fileRightsOf returns all rights to files that a version knows: what a ruleset
// handles, and so refuses unless a path gives it. Rights to the network are left
// out: the hooks judge that.
func fileRightsOf(abi int) accessRights {
	rights := accessRights(unix.LANDLOCK_ACCESS_FS_REFER - 1)
	for _, later := range []struct {
		abi   int
		right accessRights
	}{
		{abiRefer, unix.LANDLOCK_ACCESS_FS_REFER},
		{abiTruncate, unix.LANDLOCK_ACCESS_FS_TRUNCATE},
		{abiIoctl, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
		{abiResolveUnix, unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX},
	} {
		if abi >= later.abi {
			rights |= later.right
		}
	}
	return rights
}

// missingRights says what a version leaves open or closes too much, for a person.
func missingRights(abi int) []string {
	var all []string
	if abi < abiRefer {
		all = append(all, "files cannot be moved or linked between directories (Linux 5.19 or newer)")
	}
	if abi < abiTruncate {
		all = append(all, "files that may only be read can be truncated (Linux 6.2 or newer)")
	}
	return all
}

func createRuleset(attr *unix.LandlockRulesetAttr) (int, error) {
	// What an older kernel does not know is zero, which it takes.
	fd, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr), 0)
	if e != 0 {
		return -1, fmt.Errorf("make Landlock ruleset: %w", e)
	}
	return int(fd), nil
}

// allowBeneath gives rights to what lies beneath an open path.
func allowBeneath(ruleset, path int, rights accessRights) error {
	rule := unix.LandlockPathBeneathAttr{Allowed_access: uint64(rights), Parent_fd: int32(path)}
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if e != 0 {
		return fmt.Errorf("add Landlock rule: %w", e)
	}
	return nil
}

// restrictThread puts the calling thread, and what it starts, under a ruleset. It
// needs no_new_privs or CAP_SYS_ADMIN, and cannot be undone.
func restrictThread(ruleset int) error {
	if _, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); e != 0 {
		return fmt.Errorf("restrict by Landlock: %w", e)
	}
	return nil
}

// restrictScopes keeps the calling thread, and what it starts, from signals and
// abstract Unix sockets that lead out of all that it starts. A kernel without
// scopes has the pid and network namespaces alone, which do the same.
//
// Commands inherit this and do not each do it: two of one sandbox would else be
// strangers, and could not signal each other. For the same reason commands have none
// where a sandbox outlives its agent: a domain is only inherited, so those that
// another agent starts could not signal those from before, and a user who comes back
// could not end what still runs. The namespaces do it alone there, as on an old
// kernel. Init is not in it, because nobody in
// a domain that knows of files may mount; and this one must know of one right: a
// domain that does not speak of moving files between directories forbids it, from
// the moment that one above it, or below, speaks of files at all.
func restrictScopes() error {
	abi, err := landlockABI()
	if err != nil || abi < abiScopes {
		return err
	}
	ruleset, err := createRuleset(&unix.LandlockRulesetAttr{
		Handled_access_fs: unix.LANDLOCK_ACCESS_FS_REFER,
		Scoped:            unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET,
	})
	if err != nil {
		return err
	}
	defer unix.Close(ruleset)
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", "/", err)
	}
	defer unix.Close(root)
	if err := allowBeneath(ruleset, root, unix.LANDLOCK_ACCESS_FS_REFER); err != nil {
		return err
	}
	return restrictThread(ruleset)
}
