package bypass

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// agentGroup: against the agent itself, its hooks and its files (row 13).
func agentGroup() group {
	return group{name: "agent", runner: client, attempts: func() []attempt {
		const no = "EPERM EACCES ESRCH"
		init := func(request func(pid int) string) func(*intruder) string {
			return func(*intruder) string { return request(1) }
		}
		return []attempt{
			{row: 13, name: "kill_init", want: no, try: init(func(pid int) string { return word(unix.Kill(pid, unix.SIGKILL)) })},
			{row: 13, name: "stop_init", want: no, try: init(func(pid int) string { return word(unix.Kill(pid, unix.SIGSTOP)) })},
			{row: 13, name: "signal_by_pidfd", want: no, try: init(func(pid int) string {
				pidfd, err := unix.PidfdOpen(pid, 0)
				if err != nil {
					return word(err)
				}
				defer unix.Close(pidfd)
				return word(unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0))
			})},
			{row: 13, name: "other_processes", want: "none", try: otherProcesses},
			{row: 13, name: "kill_every_pid", want: "none", try: killEvery},
			{row: 13, name: "ptrace_init", want: no, try: init(func(pid int) string { return word(unix.PtraceAttach(pid)) })},
			{row: 13, name: "limits_of_init", want: no, try: init(func(pid int) string {
				return word(unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{}, nil))
			})},
			{row: 13, name: "priority_of_init", want: no, try: init(func(pid int) string {
				return word(unix.Setpriority(unix.PRIO_PROCESS, pid, 19))
			})},
			{row: 13, name: "memory_of_init", want: "EACCES", try: init(func(int) string {
				return every(map[string]string{
					"mem": openWord("/proc/1/mem", unix.O_RDONLY), "environ": openWord("/proc/1/environ", unix.O_RDONLY),
					"maps": openWord("/proc/1/maps", unix.O_RDONLY), "exe": readLink("/proc/1/exe"), "root": readLink("/proc/1/root"),
					"cwd": readLink("/proc/1/cwd"),
				})
			})},
			{row: 13, name: "pins", want: "none", try: func(*intruder) string {
				found, _ := filepath.Glob("/sys/fs/bpf/*") // the pattern is well formed
				return listOr(found, "none")
			}},
			{row: 13, name: "state", want: "none", try: func(*intruder) string {
				found, _ := filepath.Glob("/run/ringfence/run-*") // the pattern is well formed
				return listOr(found, "none")
			}},
			{row: 13, name: "records_file", want: "EACCES", try: func(in *intruder) string {
				return openWord(filepath.Join(in.dir, "records"), unix.O_WRONLY)
			}},
			{row: 13, name: "policy_file", want: "EACCES", try: func(in *intruder) string {
				return openWord(filepath.Join(in.dir, "policy.yaml"), unix.O_WRONLY)
			}},
			{row: 13, name: "replace_policy", want: "EACCES EPERM", try: func(in *intruder) string {
				mine := filepath.Join(in.own, "policy.yaml")
				if err := os.WriteFile(mine, []byte("version: 1\n"), 0o644); err != nil {
					return word(err)
				}
				return word(unix.Rename(mine, filepath.Join(in.dir, "policy.yaml")))
			}},
			{row: 13, name: "kernel_files", want: "none", try: kernelFiles},
			{row: 13, name: "oom_score", want: "EROFS EACCES", try: func(*intruder) string {
				return openWord("/proc/self/oom_score_adj", unix.O_WRONLY)
			}},
		}
	}}
}

func openWord(path string, flags int) string {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return word(err)
	}
	_ = unix.Close(fd)
	return ok
}

func readLink(path string) string {
	_, err := os.Readlink(path)
	return word(err)
}

// otherProcesses are those that are seen beside init and the attacker's own.
func otherProcesses(*intruder) string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return word(err)
	}
	var found []string
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err == nil && pid != 1 && pid != os.Getpid() {
			found = append(found, entry.Name())
		}
	}
	return listOr(found, "none")
}

// killEvery sends signal 0 to every pid there can be, with few exceptions.
func killEvery(*intruder) string {
	var found []string
	for pid := 2; pid < 1<<16; pid++ {
		if pid == os.Getpid() {
			continue
		}
		// Threads of this process are found too: they are in its own group.
		if unix.Kill(pid, 0) == nil {
			if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(pid)); err != nil {
				found = append(found, strconv.Itoa(pid))
			}
		}
	}
	return listOr(found, "none")
}

// kernelFiles are ways into the kernel that are files.
func kernelFiles(*intruder) string {
	var found []string
	for _, path := range []string{
		"/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/port", "/proc/kcore", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern",
		"/proc/sys/kernel/modprobe", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/sys/kernel/uevent_helper",
		"/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/fuse", "/dev/kvm", "/dev/loop-control", "/dev/mapper/control",
	} {
		if openWord(path, unix.O_RDWR) == ok {
			found = append(found, path)
		}
	}
	return listOr(found, "none")
}
