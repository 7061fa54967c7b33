package launch

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Everything here acts on the calling thread alone, by raw system calls: the
// thread that drops is the one that calls execve, and execve ends the others.
// syscall.Setuid and its like would act on all threads, and one of those may
// fail after this one succeeded.

// lastCapability bounds the loops over capabilities; the kernel says EINVAL
// sooner.
const lastCapability = 63

var errNotDropped = errors.New("a privilege is left")

// dropBounding empties the bounding, ambient and inheritable sets.
func dropBounding() error {
	for c := uintptr(0); c <= lastCapability; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL && c > 0 {
			break
		}
		if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	return nil
}

// setCapabilities makes set the permitted and effective set, and empties the
// inheritable one.
func setCapabilities(set uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(set), Permitted: uint32(set)},
		{Effective: uint32(set >> 32), Permitted: uint32(set >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

func setNoNewPrivs() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

// limitCore lets nothing that ends leave its memory in a file.
func limitCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limit core files: %w", err)
	}
	return nil
}

// setNotDumpable keeps other processes of this user from looking into this one.
func setNotDumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set not dumpable: %w", err)
	}
	return nil
}

// becomeUser sets the groups, the group and the user of this thread.
func becomeUser(uid, gid uint32, groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); e != 0 {
		return fmt.Errorf("set groups: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); e != 0 {
		return fmt.Errorf("set group %d: %w", gid, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
		return fmt.Errorf("set user %d: %w", uid, e)
	}
	return nil
}

// verifyDropped reads back what this thread is, and tries to become root again.
func verifyDropped(uid, gid uint32, groups []uint32) error {
	ruid, euid, suid := unix.Getresuid()
	if want := int(uid); ruid != want || euid != want || suid != want {
		return fmt.Errorf("user is %d/%d/%d: %w", ruid, euid, suid, errNotDropped)
	}
	rgid, egid, sgid := unix.Getresgid()
	if want := int(gid); rgid != want || egid != want || sgid != want {
		return fmt.Errorf("group is %d/%d/%d: %w", rgid, egid, sgid, errNotDropped)
	}
	if err := verifyGroups(groups); err != nil {
		return err
	}
	if err := errors.Join(verifyCapabilities(0), verifyBounding(), verifyClosed()); err != nil {
		return err
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); e != unix.EPERM {
		return fmt.Errorf("becoming root again: %w", errNotDropped)
	}
	return nil
}

func verifyGroups(want []uint32) error {
	got, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("read groups: %w", err)
	}
	var have []uint32
	for _, g := range got {
		have = append(have, uint32(g))
	}
	want = slices.Clone(want)
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		return fmt.Errorf("groups are %v: %w", have, errNotDropped)
	}
	return nil
}

// verifyInit reads back what init's thread is: its own user, with CAP_KILL alone.
func verifyInit() error {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	for _, id := range []int{ruid, euid, suid, rgid, egid, sgid} {
		if id != initUID {
			return fmt.Errorf("user is %d/%d/%d, group %d/%d/%d: %w", ruid, euid, suid, rgid, egid, sgid, errNotDropped)
		}
	}
	return errors.Join(verifyGroups(nil), verifyCapabilities(1<<unix.CAP_KILL), verifyBounding(), verifyClosed())
}

// verifyCapabilities reads back the permitted and effective sets, and that the
// inheritable one is empty.
func verifyCapabilities(want uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	low, high := uint32(want), uint32(want>>32)
	if data != [2]unix.CapUserData{{Effective: low, Permitted: low}, {Effective: high, Permitted: high}} {
		return fmt.Errorf("capabilities are %x: %w", data, errNotDropped)
	}
	return nil
}

// verifyBounding reads back that the bounding and ambient sets are empty.
func verifyBounding() error {
	for c := range lastCapability + 1 {
		set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err == unix.EINVAL {
			break
		}
		if err != nil || set != 0 {
			return fmt.Errorf("bounding set has capability %d: %w", c, errors.Join(errNotDropped, err))
		}
		set, err = unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, uintptr(c), 0, 0)
		if err != nil || set != 0 {
			return fmt.Errorf("ambient set has capability %d: %w", c, errors.Join(errNotDropped, err))
		}
	}
	return nil
}

// verifyClosed reads back that nothing can be gained by execve, and nobody looks in.
func verifyClosed() error {
	nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil || nnp != 1 {
		return fmt.Errorf("no_new_privs is not set: %w", errors.Join(errNotDropped, err))
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil || dumpable != 0 {
		return fmt.Errorf("dumpable is %d: %w", dumpable, errors.Join(errNotDropped, err))
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core != (unix.Rlimit{}) {
		return fmt.Errorf("core files may have %d bytes: %w", core.Max, errors.Join(errNotDropped, err))
	}
	return nil
}
