package launch

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// archOffset is where seccomp_data holds the architecture of the call.
const archOffset = 4

// filters assembles the deny-list for the architecture of this program: one
// program for the calls that are refused always, one for each call that is
// refused by its arguments, and one for each allow-list of sockets. The kernel
// runs all and takes the strictest answer.
//
// They are apart because the library's code for arguments leaves an argument
// where the next row expects the call's number: nothing may follow it.
func filters() ([][]unix.SockFilter, error) {
	rows := slices.DeleteFunc(refusals(), func(r refusal) bool { return r.only64 && runtime.GOARCH != "amd64" })
	var programs [][]unix.SockFilter
	for _, policy := range policies(rows) {
		program, err := assemble(policy)
		if err != nil {
			return nil, fmt.Errorf("assemble seccomp filter: %w", err)
		}
		programs = append(programs, program)
	}
	native, err := arch.GetInfo("")
	if err != nil {
		return nil, fmt.Errorf("assemble socket filter: %w", err)
	}
	return append(programs,
		socketFilter(uint32(native.ID), unix.SYS_SOCKET, socketKinds()),
		socketFilter(uint32(native.ID), unix.SYS_SOCKETPAIR, socketPairKinds())), nil
}

func policies(rows []refusal) []seccomp.Policy {
	always := seccomp.Policy{DefaultAction: seccomp.ActionAllow}
	var byCall []string
	byArguments := map[string]seccomp.SyscallGroup{}
	for _, r := range rows {
		if r.when == nil {
			// A group of its own for each row, so that all jumps are short.
			always.Syscalls = append(always.Syscalls, seccomp.SyscallGroup{Names: []string{r.call}, Action: r.action()})
			continue
		}
		g, seen := byArguments[r.call]
		if !seen {
			byCall = append(byCall, r.call)
		}
		g.Action = r.action()
		g.NamesWithCondtions = append(g.NamesWithCondtions, seccomp.NameWithConditions{Name: r.call, Conditions: r.when})
		byArguments[r.call] = g
	}
	all := []seccomp.Policy{always}
	for _, call := range byCall {
		g := byArguments[call]
		all = append(all, seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{g}})
	}
	return all
}

// action is what the kernel does. Rows of one call that look at arguments have
// one errno.
func (r refusal) action() seccomp.Action {
	errno := r.errno
	if errno == 0 {
		errno = unix.EPERM
	}
	return seccomp.ActionErrno | seccomp.Action(errno)
}

func assemble(policy seccomp.Policy) ([]unix.SockFilter, error) {
	native, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	instructions, err := policy.Assemble()
	if err != nil {
		return nil, err
	}
	program := foreignArchitecture(uint32(native.ID))
	for _, instruction := range instructions {
		raw, err := instruction.Assemble()
		if err != nil {
			return nil, err
		}
		program = append(program, unix.SockFilter{Code: raw.Op, Jt: raw.Jt, Jf: raw.Jf, K: raw.K})
	}
	return program, nil
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

// installFilters installs the deny-list on the calling thread, or with
// SECCOMP_FILTER_FLAG_TSYNC on all. no_new_privs must be set.
func installFilters(flags uintptr) error {
	programs, err := filters()
	if err != nil {
		return err
	}
	for _, program := range programs {
		if err := install(program, flags); err != nil {
			return fmt.Errorf("install seccomp filter: %w", err)
		}
	}
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	if err != nil || mode != unix.SECCOMP_MODE_FILTER {
		return fmt.Errorf("install seccomp filter: the mode is %d: %w", mode, errors.Join(errNotDropped, err))
	}
	return nil
}

func install(program []unix.SockFilter, flags uintptr) error {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// With TSYNC a thread that cannot follow is returned as a positive number.
	thread, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return e
	}
	if thread != 0 {
		return fmt.Errorf("thread %d has another", thread)
	}
	return nil
}
