package bypass

import (
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// namespacesGroup: out of the cgroup, the namespaces, the root (rows 9 and 10).
func namespacesGroup() group {
	return group{name: "namespaces", runner: client, attempts: func() []attempt {
		return append(cgroupAttempts(), namespaceAttempts()...)
	}}
}

func cgroupAttempts() []attempt {
	const gone = "ENOENT EACCES EROFS ENOTDIR"
	return []attempt{
		{row: 9, name: "cgroup_procs", want: gone, try: func(*intruder) string {
			return every(map[string]string{
				"v2":      oneOf(writeFile("/sys/fs/cgroup/cgroup.procs", "0"), gone, "ENOENT"),
				"hybrid":  oneOf(writeFile("/sys/fs/cgroup/unified/cgroup.procs", "0"), gone, "ENOENT"),
				"of init": oneOf(writeFile("/proc/1/root/sys/fs/cgroup/cgroup.procs", "0"), gone, "ENOENT"),
			})
		}},
		{row: 9, name: "cgroup_mounts", want: "none", try: func(*intruder) string {
			return mounted("cgroup", "cgroup2", "bpf", "debugfs", "tracefs", "securityfs", "configfs")
		}},
		{row: 9, name: "mount_cgroup2", want: "EPERM", try: func(in *intruder) string {
			return word(unix.Mount("none", in.own, "cgroup2", 0, ""))
		}},
		{row: 9, name: "cgroup_namespace", want: "EPERM", try: func(*intruder) string {
			return word(unix.Unshare(unix.CLONE_NEWCGROUP))
		}},
		{row: 9, name: "clone_into_cgroup", want: "ENOSYS EPERM", try: cloneIntoCgroup},
		{row: 9, name: "uid_0", want: "EPERM", try: func(*intruder) string {
			return every(map[string]string{
				"setuid":    call(unix.SYS_SETUID, 0),
				"setgid":    call(unix.SYS_SETGID, 0),
				"setresuid": call(unix.SYS_SETRESUID, 0, 0, 0),
				"setgroups": call(unix.SYS_SETGROUPS, 0, 0),
			})
		}},
	}
}

func writeFile(path, text string) string {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return word(err)
}

// mounted returns where file systems of these types are mounted.
func mounted(types ...string) string {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return word(err)
	}
	var found []string
	for line := range strings.Lines(string(info)) {
		before, after, _ := strings.Cut(line, " - ")
		for _, kind := range types {
			if fields := strings.Fields(before); strings.HasPrefix(after, kind+" ") && len(fields) > 4 && isThere(fields[4], kind) {
				found = append(found, kind+" at "+fields[4])
			}
		}
	}
	return listOr(found, "none")
}

// isThere reports whether a mount can be reached: one that is covered cannot.
func isThere(point, kind string) bool {
	magic := map[string]int64{
		"cgroup": unix.CGROUP_SUPER_MAGIC, "cgroup2": unix.CGROUP2_SUPER_MAGIC, "bpf": unix.BPF_FS_MAGIC,
		"debugfs": unix.DEBUGFS_MAGIC, "tracefs": unix.TRACEFS_MAGIC, "securityfs": unix.SECURITYFS_MAGIC,
	}
	var st unix.Statfs_t
	return unix.Statfs(point, &st) == nil && st.Type == magic[kind]
}

func cloneIntoCgroup(*intruder) string {
	args := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
	}{flags: unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: ^uint64(0)}
	return call(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))
}

func namespaceAttempts() []attempt {
	const no = "EPERM"
	unshare := func(flags int) func(*intruder) string {
		return func(*intruder) string { return word(unix.Unshare(flags)) }
	}
	return []attempt{
		{row: 10, name: "unshare_user", try: unshare(unix.CLONE_NEWUSER), want: no},
		{row: 10, name: "unshare_user_net", try: unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNET), want: no},
		{row: 10, name: "unshare_net", try: unshare(unix.CLONE_NEWNET), want: no},
		{row: 10, name: "unshare_mount", try: unshare(unix.CLONE_NEWNS), want: no},
		{row: 10, name: "unshare_time", try: unshare(unix.CLONE_NEWTIME), want: no},
		{row: 10, name: "unshare_pid", try: unshare(unix.CLONE_NEWPID), want: no},
		{row: 10, name: "clone_flags", want: no, try: cloneFlags},
		{row: 10, name: "clone3", want: "ENOSYS EPERM", try: func(*intruder) string {
			args := [11]uint64{unix.CLONE_NEWUSER | unix.CLONE_NEWNET, 4: uint64(unix.SIGCHLD)}
			return call(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))
		}},
		{row: 10, name: "setns_of_init", want: "EACCES EPERM", try: func(*intruder) string {
			return setnsTo("/proc/1/ns/net")
		}},
		{row: 10, name: "setns_own", want: no, try: func(*intruder) string {
			return every(map[string]string{
				"net": setnsTo("/proc/self/ns/net"), "mnt": setnsTo("/proc/self/ns/mnt"), "user": setnsTo("/proc/self/ns/user"),
				"pid": setnsTo("/proc/self/ns/pid"), "cgroup": setnsTo("/proc/self/ns/cgroup"),
			})
		}},
		{row: 10, name: "setns_by_pidfd", want: no, try: func(*intruder) string {
			pidfd, err := unix.PidfdOpen(1, 0)
			if err != nil {
				return word(err)
			}
			defer unix.Close(pidfd)
			return word(unix.Setns(pidfd, unix.CLONE_NEWNET|unix.CLONE_NEWNS))
		}},
		{row: 10, name: "mount_bind", want: no, try: func(in *intruder) string {
			return word(unix.Mount(in.stranger(), in.client(), "", unix.MS_BIND, ""))
		}},
		{row: 10, name: "mount_tmpfs", want: no, try: func(in *intruder) string {
			return word(unix.Mount("tmpfs", in.own, "tmpfs", 0, ""))
		}},
		{row: 10, name: "remount_proc", want: no, try: func(*intruder) string {
			return word(unix.Mount("", "/proc", "", unix.MS_REMOUNT, ""))
		}},
		{row: 10, name: "umount", want: no, try: func(*intruder) string {
			return every(map[string]string{
				"run": word(unix.Unmount("/run", unix.MNT_DETACH)), "tmp": word(unix.Unmount("/tmp", unix.MNT_DETACH)),
				"proc": word(unix.Unmount("/proc", unix.MNT_DETACH)),
			})
		}},
		{row: 10, name: "pivot_root", want: no, try: func(in *intruder) string { return word(unix.PivotRoot(in.own, in.own)) }},
		{row: 10, name: "chroot", want: no, try: func(in *intruder) string { return word(unix.Chroot(in.own)) }},
		{row: 10, name: "mount_api", want: no, try: mountAPI},
		{row: 10, name: "covered_run", want: "none", try: func(*intruder) string {
			// A path that leads below the masks would show the host's.
			var found []string
			for _, root := range []string{"/proc/1/root", "/proc/self/root", "/proc/self/task/1/root", "/proc/thread-self/root"} {
				locks, _ := filepath.Glob(filepath.Join(root, "run/ringfence/*/lock")) // the pattern is well formed
				found = append(found, locks...)
			}
			return listOr(found, "none")
		}},
	}
}

// cloneFlags asks for each kind of namespace. CLONE_THREAD alone is invalid, so
// that nothing is made where the call gets past the filter.
func cloneFlags(*intruder) string {
	calls := map[string]string{}
	for name, flag := range map[string]uintptr{
		"mount": unix.CLONE_NEWNS, "cgroup": unix.CLONE_NEWCGROUP, "uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC,
		"user": unix.CLONE_NEWUSER, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET, "parent": unix.CLONE_PARENT,
		"user and high bits": unix.CLONE_NEWUSER | 1<<40,
	} {
		calls[name] = call(unix.SYS_CLONE, flag|unix.CLONE_THREAD)
	}
	return every(calls)
}

func setnsTo(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	return word(unix.Setns(fd, 0))
}

// bad is an argument that no call takes: one that gets past a filter does nothing.
const bad = ^uintptr(0)

func mountAPI(*intruder) string {
	return every(map[string]string{
		"open_tree":     call(unix.SYS_OPEN_TREE, bad, bad, bad),
		"move_mount":    call(unix.SYS_MOVE_MOUNT, bad, bad, bad, bad, bad),
		"fsopen":        call(unix.SYS_FSOPEN, bad, bad),
		"fsconfig":      call(unix.SYS_FSCONFIG, bad, bad, bad, bad, bad),
		"fsmount":       call(unix.SYS_FSMOUNT, bad, bad, bad),
		"fspick":        call(unix.SYS_FSPICK, bad, bad, bad),
		"mount_setattr": call(unix.SYS_MOUNT_SETATTR, bad, bad, bad, bad, bad),
	})
}
