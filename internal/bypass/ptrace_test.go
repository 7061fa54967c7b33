package bypass

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ptraceGroup: from one program into another of the same user that is allowed more
// (row 25). The victim has an open connection that policy allowed it.
func ptraceGroup() group {
	return group{name: "ptrace", runner: stranger, attempts: func() []attempt {
		at := func(do func(pid int) string) func(*intruder) string {
			return func(in *intruder) string { return againstVictim(in, do) }
		}
		// The victim's connection shows that there was something to be had.
		victims := told{reason: "allowed", verdict: "allow", mode: "transparent", by: client}
		const no = "EPERM ENOSYS"
		return []attempt{
			{row: 25, name: "attach", want: no, told: victims, try: at(func(pid int) string { return word(unix.PtraceAttach(pid)) })},
			{row: 25, name: "seize", want: no, told: victims, try: at(func(pid int) string { return word(unix.PtraceSeize(pid)) })},
			{row: 25, name: "traceme", want: no, try: func(*intruder) string {
				return call(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0, 0)
			}},
			{row: 25, name: "process_vm", want: no, told: victims, try: at(func(pid int) string {
				return every(map[string]string{
					"readv": call(unix.SYS_PROCESS_VM_READV, uintptr(pid), bad, 1, bad, 1, 0), "writev": call(unix.SYS_PROCESS_VM_WRITEV, uintptr(pid), bad, 1, bad, 1, 0),
				})
			})},
			{row: 25, name: "proc_mem", want: "EROFS EACCES", told: victims, try: at(func(pid int) string {
				return openWord(fmt.Sprintf("/proc/%d/mem", pid), unix.O_RDWR)
			})},
			{row: 25, name: "proc_mem_of_thread", want: "EROFS EACCES", told: victims, try: at(func(pid int) string {
				return openWord(fmt.Sprintf("/proc/%d/task/%d/mem", pid, pid), unix.O_WRONLY)
			})},
			{row: 25, name: "pidfd_getfd", want: no, told: victims, try: at(stealDescriptor)},
			{row: 25, name: "proc_fd", want: "ENXIO EACCES ELOOP none", told: victims, try: at(openSockets)},
			{row: 25, name: "kcmp", want: no, told: victims, try: at(func(pid int) string {
				return call(unix.SYS_KCMP, uintptr(pid), uintptr(unix.Getpid()), 0, 0, 0)
			})},
			{row: 25, name: "process_madvise", want: no + " EBADF", told: victims, try: at(func(int) string {
				return call(unix.SYS_PROCESS_MADVISE, bad, bad, 1, unix.MADV_COLD, 0)
			})},
			{row: 25, name: "filter_of_own", want: reset, try: func(in *intruder) string {
				return said(exec.Command(in.stranger(), actCommand, "filtered", in.client(), actCommand, "connect", in.open, "7"))
			}, told: refusedAs(client, "filtered")},
		}
	}}
}

// againstVictim starts the allowed program, and does something to it while it has
// its connection.
func againstVictim(in *intruder, do func(pid int) string) string {
	victim := exec.Command(in.client(), actCommand, "hold", in.open, "7")
	stdin, err := victim.StdinPipe()
	if err != nil {
		return word(err)
	}
	stdout, err := victim.StdoutPipe()
	if err != nil {
		return word(err)
	}
	if err := victim.Start(); err != nil {
		return word(err)
	}
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	got := "victim: " + strings.TrimSpace(line)
	if got == "victim: "+data {
		got = do(victim.Process.Pid)
	}
	_ = stdin.Close()
	_ = victim.Wait()
	return got
}

// hold connects, says what came of it, and keeps the connection until its standard
// input ends.
func hold(a []string) string {
	fd, addr, err := socketFor(a[0])
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	fmt.Println(connectOn(fd, addr, portOf(a[1])))
	_, _ = os.Stdin.Read(make([]byte, 1))
	return "held"
}

// stealDescriptor takes each descriptor of the victim.
func stealDescriptor(pid int) string {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(pidfd)
	got := map[string]string{}
	for fd := range uintptr(16) {
		got[fmt.Sprint(fd)] = call(unix.SYS_PIDFD_GETFD, uintptr(pidfd), fd, 0)
	}
	return every(got)
}

// openSockets opens the victim's sockets by their names in /proc.
func openSockets(pid int) string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return word(err)
	}
	got := map[string]string{}
	for _, entry := range entries {
		path := dir + "/" + entry.Name()
		if link, err := os.Readlink(path); err == nil && strings.HasPrefix(link, "socket:") {
			got[path] = openWord(path, unix.O_RDWR)
		}
	}
	if len(got) == 0 {
		return "none"
	}
	return every(got)
}

// filtered installs a seccomp filter that allows everything, and becomes another
// program: what starts under a filter of the sandbox's own may be lied to.
func filtered(a []string) string {
	runtimeLock()
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}
	prog := unix.SockFprog{Len: 1, Filter: &program[0]}
	if got := call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); got != ok {
		return "filter: " + got
	}
	return "exec: " + word(unix.Exec(a[0], a, os.Environ()))
}
