package bypass

import (
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syscallsGroup: system calls that no program here needs (row 14). Most are made
// with arguments that would do nothing where the call got past the filter.
func syscallsGroup() group {
	return group{name: "syscalls", runner: client, attempts: func() []attempt {
		calls := func(all map[string]uintptr) func(*intruder) string {
			return func(*intruder) string {
				got := map[string]string{}
				for name, nr := range all {
					got[name] = oneOf(call(nr, bad, bad, bad, bad, bad), refusedCall, "refused")
				}
				return every(got)
			}
		}
		return []attempt{
			{row: 14, name: "keyrings", want: "refused", try: calls(map[string]uintptr{
				"keyctl": unix.SYS_KEYCTL, "add_key": unix.SYS_ADD_KEY, "request_key": unix.SYS_REQUEST_KEY})},
			{row: 14, name: "bpf", want: "refused", try: func(*intruder) string {
				return every(map[string]string{
					"map": refusedBPF(0), "prog": refusedBPF(5), "obj_get": refusedBPF(7), "detach": refusedBPF(9), "link_detach": refusedBPF(34),
				})
			}},
			{row: 14, name: "perf_event_open", want: "refused", try: func(*intruder) string {
				attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
				return oneOf(call(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&attr)), 0, bad, bad, 0), refusedCall, "refused")
			}},
			{row: 14, name: "userfaultfd", want: "refused", try: func(*intruder) string {
				return oneOf(call(unix.SYS_USERFAULTFD, 1), refusedCall, "refused") // UFFD_USER_MODE_ONLY
			}},
			{row: 14, name: "handles", want: "refused", try: calls(map[string]uintptr{
				"open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT, "name_to_handle_at": unix.SYS_NAME_TO_HANDLE_AT})},
			{row: 14, name: "modules", want: "refused", try: calls(map[string]uintptr{
				"init_module": unix.SYS_INIT_MODULE, "finit_module": unix.SYS_FINIT_MODULE, "delete_module": unix.SYS_DELETE_MODULE})},
			{row: 14, name: "kexec", want: "refused", try: calls(map[string]uintptr{
				"kexec_load": unix.SYS_KEXEC_LOAD, "kexec_file_load": unix.SYS_KEXEC_FILE_LOAD})},
			{row: 14, name: "machine", want: "refused", try: calls(map[string]uintptr{
				"reboot": unix.SYS_REBOOT, "swapon": unix.SYS_SWAPON, "swapoff": unix.SYS_SWAPOFF, "acct": unix.SYS_ACCT,
				"settimeofday": unix.SYS_SETTIMEOFDAY, "clock_settime": unix.SYS_CLOCK_SETTIME, "adjtimex": unix.SYS_ADJTIMEX,
				"syslog": unix.SYS_SYSLOG, "quotactl": unix.SYS_QUOTACTL})},
			{row: 14, name: "x32", want: "refused", try: x32},
			{row: 14, name: "x32_socket", want: "refused", try: x32Socket},
			{row: 14, name: "i386", want: "killed", try: i386},
		}
	}}
}

// refusedBPF makes a command of bpf(2) with an argument of zeros.
func refusedBPF(command uintptr) string {
	var attr [128]byte
	return oneOf(call(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)), refusedCall, "refused")
}

const x32Bit = 0x40000000

// x32 makes calls by the numbers of the third architecture that amd64 kernels have.
func x32(*intruder) string {
	if runtime.GOARCH != "amd64" {
		return "refused" // no other has it
	}
	return oneOf(every(map[string]string{
		"getpid":  call(x32Bit | unix.SYS_GETPID),
		"unshare": call(x32Bit|unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"ptrace":  call(x32Bit | 521),
		"mount":   call(x32Bit|unix.SYS_MOUNT, bad, bad, bad, bad, bad),
	}), refusedCall, "refused")
}

func x32Socket(*intruder) string {
	if runtime.GOARCH != "amd64" {
		return "refused"
	}
	return oneOf(call(x32Bit|unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0), refusedCall, "refused")
}

// i386 starts a program that calls by the numbers of i386, of which none gets far.
func i386(in *intruder) string {
	if runtime.GOARCH != "amd64" {
		return "killed"
	}
	err := exec.Command(in.client(), actCommand, "int80").Run()
	if exit, is := err.(*exec.ExitError); is {
		if status, is := exit.Sys().(syscall.WaitStatus); is && status.Signaled() {
			return "killed"
		}
		return exit.String()
	}
	return word(err)
}

// int80 runs "int 0x80" for getpid: without a filter it returns.
func int80([]string) string {
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return word(err)
	}
	copy(code, []byte{0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3}) // mov eax, 20; int 0x80; ret
	entry := uintptr(unsafe.Pointer(&code[0]))
	indirect := &entry
	run := *(*func())(unsafe.Pointer(&indirect))
	run()
	return ok
}
