package launch

import (
	"fmt"
	"runtime"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// archOffset is where seccomp_data holds the architecture of the call.
const archOffset = 4

// filter assembles the deny-list for the architecture of this program.
func filter() ([]unix.SockFilter, error) {
	native, err := arch.GetInfo("")
	if err != nil {
		return nil, fmt.Errorf("assemble seccomp filter: %w", err)
	}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionAllow}
	for _, r := range refusals() {
		if r.only64 && runtime.GOARCH != "amd64" {
			continue
		}
		policy.Syscalls = append(policy.Syscalls, r.group())
	}
	assembled, err := policy.Assemble()
	if err != nil {
		return nil, fmt.Errorf("assemble seccomp filter: %w", err)
	}
	program := foreignArchitecture(uint32(native.ID))
	for _, instruction := range assembled {
		raw, err := instruction.Assemble()
		if err != nil {
			return nil, fmt.Errorf("assemble seccomp filter: %w", err)
		}
		program = append(program, unix.SockFilter{Code: raw.Op, Jt: raw.Jt, Jf: raw.Jf, K: raw.K})
	}
	return program, nil
}

// group makes a row an own block of the program, so that its jumps are short.
func (r refusal) group() seccomp.SyscallGroup {
	errno := r.errno
	if errno == 0 {
		errno = unix.EPERM
	}
	g := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(errno)}
	if r.when == nil {
		g.Names = []string{r.call}
	} else {
		g.NamesWithCondtions = []seccomp.NameWithConditions{{Name: r.call, Conditions: r.when}}
	}
	return g
}

// foreignArchitecture kills a process that calls by another architecture's
// numbers (on amd64: int 0x80). It comes before what the library assembles, which
// lets such calls have the default action, and that is to allow. The x32 numbers
// are of the same architecture; the library refuses them with ENOSYS.
func foreignArchitecture(native uint32) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: archOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: native, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS},
	}
}

// installFilter installs the deny-list on the calling thread, or with
// SECCOMP_FILTER_FLAG_TSYNC on all. no_new_privs must be set.
func installFilter(flags uintptr) error {
	program, err := filter()
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// With TSYNC a thread that cannot follow is returned as a positive number.
	thread, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return fmt.Errorf("install seccomp filter: %w", e)
	}
	if thread != 0 {
		return fmt.Errorf("install seccomp filter: thread %d has another", thread)
	}
	runtime.KeepAlive(program)
	return nil
}
