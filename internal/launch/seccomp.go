package launch

import (
	"slices"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// A refusal is one row of the deny-list: a system call that a sandbox may not
// make, and why. The list must not stop ordinary programs (shells, compilers,
// node, Go, Java, Python, browsers without their own sandbox); a debugger, and
// what makes containers, is not ordinary here.
type refusal struct {
	call   string
	why    string
	errno  unix.Errno          // EPERM unless said
	when   []seccomp.Condition // all must hold; none: always
	only64 bool                // amd64 alone has it
}

// namespaceFlags make namespaces in clone(2). CLONE_NEWTIME is not among them: in
// clone its bit belongs to the exit signal, so only clone3 and unshare know it.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// refusals is the whole deny-list. It returns a new slice: nobody can change it.
//
// Left out on purpose: personality (address space only; race detectors need it),
// mbind, move_pages and set_mempolicy (Java and NUMA programs; on other processes
// they need what ptrace needs), landlock (it only narrows), seccomp (programs fence
// themselves with it; the exec hook taints what starts under a filter of theirs),
// pidfd_open (a name, not a right), memfd_create (the exec hook taints it), statmount
// and listmount (they tell of this mount namespace, as /proc/self/mountinfo does),
// and what kernels have no more (create_module, sysfs, _sysctl …). Which sockets
// there may be is an allow-list of its own, socketKinds.
func refusals() []refusal {
	return slices.Concat(namespaceRefusals(), mountRefusals(), processRefusals(), kernelRefusals(), machineRefusals())
}

func namespaceRefusals() []refusal {
	return []refusal{
		{call: "unshare", why: "a user namespace gives all capabilities in it, and so the kernel's whole attack surface"},
		{call: "setns", why: "enters the namespaces of others"},
		{
			call: "clone", why: "makes namespaces, as unshare does",
			when: []seccomp.Condition{{Argument: 0, Operation: seccomp.BitsSet, Value: namespaceFlags}},
		},
		{
			call: "clone", why: "a child of the agent's, which nobody reaps: the pid namespace would never end",
			when: []seccomp.Condition{{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_PARENT}},
		},
		{call: "clone3", why: "its flags are behind a pointer; the C libraries fall back to clone", errno: unix.ENOSYS},
	}
}

func mountRefusals() []refusal {
	return []refusal{
		{call: "mount", why: "changes what a path means, and the view that init built"},
		{call: "umount2", why: "uncovers what is masked"},
		{call: "move_mount", why: "mount, newer form"},
		{call: "open_tree", why: "clones a mount without what covers parts of it"},
		{call: "open_tree_attr", why: "open_tree, newer form"},
		{call: "fsopen", why: "mount, newer form"},
		{call: "fsconfig", why: "mount, newer form; a history of kernel bugs"},
		{call: "fsmount", why: "mount, newer form"},
		{call: "fspick", why: "remounts"},
		{call: "mount_setattr", why: "remounts"},
		{call: "pivot_root", why: "changes the root: paths of program images would lie"},
		{call: "chroot", why: "changes the root: paths of program images would lie"},
		{call: "open_by_handle_at", why: "opens files without a path, past every mask"},
		{call: "name_to_handle_at", why: "makes the handles for it"},
		{call: "fanotify_init", why: "watches whole file systems, the host's side of them too"},
		{call: "quotactl", why: "the host's quotas"},
		{call: "quotactl_fd", why: "quotactl, newer form"},
	}
}

func processRefusals() []refusal {
	return []refusal{
		{call: "ptrace", why: "runs code in a program that is allowed more"},
		{call: "process_vm_readv", why: "reads the memory of a program that is allowed more"},
		{call: "process_vm_writev", why: "writes the memory of a program that is allowed more"},
		{call: "process_madvise", why: "acts on the memory of other processes"},
		{call: "process_mrelease", why: "acts on the memory of other processes"},
		{call: "pidfd_getfd", why: "takes a connected socket out of another process"},
		{call: "kcmp", why: "compares what other processes hold; leaks kernel pointers' order"},
		{
			call: "ioctl", why: "TIOCSTI types into a terminal as if its user did",
			when: low32Is(1, unix.TIOCSTI),
		},
		{
			call: "ioctl", why: "TIOCLINUX pastes into a console",
			when: low32Is(1, tioclinux),
		},
		{
			call: "ioctl", why: "TIOCSETD loads line disciplines (SLIP, GSM, HDLC); a history of kernel bugs, and a way to make an interface",
			when: low32Is(1, unix.TIOCSETD),
		},
	}
}

func kernelRefusals() []refusal {
	return []refusal{
		{call: "bpf", why: "the fence is made of it"},
		{call: "perf_event_open", why: "watches the kernel and others; a history of kernel bugs"},
		{call: "io_uring_setup", why: "does system calls that no filter sees"},
		{call: "io_uring_enter", why: "uses a ring that was passed in"},
		{call: "io_uring_register", why: "changes a ring that was passed in"},
		{call: "userfaultfd", why: "stops the kernel in the middle of a copy: makes races winnable"},
		{call: "keyctl", why: "keyrings are not in any namespace"},
		{call: "add_key", why: "keyrings are not in any namespace"},
		{call: "request_key", why: "starts a program of the host, and keyrings are in no namespace"},
		{call: "modify_ldt", why: "16-bit segments; a history of kernel bugs", only64: true},
		{call: "lookup_dcookie", why: "names files of the host"},
		{call: "uselib", why: "a loader that nothing uses any more", only64: true},
	}
}

// machineRefusals need capabilities that no sandbox has. They are here so that
// one forgotten capability check in the kernel is not the end.
func machineRefusals() []refusal {
	const why = "belongs to the machine"
	return []refusal{
		{call: "kexec_load", why: why},
		{call: "kexec_file_load", why: why},
		{call: "init_module", why: why},
		{call: "finit_module", why: why},
		{call: "delete_module", why: why},
		{call: "swapon", why: why},
		{call: "swapoff", why: why},
		{call: "reboot", why: why},
		{call: "acct", why: why},
		{call: "vhangup", why: why},
		{call: "iopl", why: why, only64: true},
		{call: "ioperm", why: why, only64: true},
		{call: "settimeofday", why: why},
		{call: "clock_settime", why: why},
		{call: "adjtimex", why: why},
		{call: "clock_adjtime", why: why},
		{call: "syslog", why: "the kernel's log shows addresses and other sandboxes"},
	}
}

// tioclinux is TIOCLINUX, which x/sys does not have.
const tioclinux = 0x541C

// low32Is holds where the low half of an argument is value. The kernel cuts an
// ioctl's request to 32 bits: a comparison of all 64 would miss it with any high
// bit set. So each bit that is set is asked for, and then that no other is.
func low32Is(argument uint32, value uint32) []seccomp.Condition {
	var all []seccomp.Condition
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if value&bit != 0 {
			all = append(all, seccomp.Condition{Argument: argument, Operation: seccomp.BitsSet, Value: uint64(bit)})
		}
	}
	return append(all, seccomp.Condition{Argument: argument, Operation: seccomp.BitsNotSet, Value: uint64(^value)})
}
