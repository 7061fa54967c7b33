package launch

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// bad is an argument that no call takes: a call that gets past the filter ends
// with EFAULT, EBADF or EINVAL, and does nothing.
const bad = ^uintptr(0)

func native(t testing.TB) *arch.Info {
	t.Helper()
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestEveryRefusalIsRefused(t *testing.T) {
	info := native(t)
	var all []attempt
	want := map[string]unix.Errno{}
	for _, r := range refusals() {
		if r.when != nil || r.only64 && runtime.GOARCH != "amd64" {
			continue
		}
		all = append(all, attempt{Name: r.call, Nr: uintptr(info.SyscallNames[r.call]), Args: [6]uintptr{bad, bad, bad, bad, bad, bad}})
		want[r.call] = unix.EPERM
		if r.errno != 0 {
			want[r.call] = r.errno
		}
	}
	clone, ioctl := uintptr(info.SyscallNames["clone"]), uintptr(info.SyscallNames["ioctl"])
	add := func(name string, nr uintptr, args ...uintptr) {
		a := attempt{Name: name, Nr: nr}
		copy(a.Args[:], args)
		all = append(all, a)
		want[name] = unix.EPERM
	}
	for name, flag := range map[string]uintptr{
		"clone NEWNS": unix.CLONE_NEWNS, "clone NEWCGROUP": unix.CLONE_NEWCGROUP, "clone NEWUTS": unix.CLONE_NEWUTS,
		"clone NEWIPC": unix.CLONE_NEWIPC, "clone NEWUSER": unix.CLONE_NEWUSER, "clone NEWPID": unix.CLONE_NEWPID,
		"clone NEWNET": unix.CLONE_NEWNET, "clone NEWUSER SIGCHLD": unix.CLONE_NEWUSER | uintptr(syscall.SIGCHLD),
		"clone NEWUSER high": unix.CLONE_NEWUSER | 1<<40, "clone PARENT": unix.CLONE_PARENT,
	} {
		// CLONE_THREAD alone is invalid, so that nothing is made if it gets past.
		add(name, clone, flag|unix.CLONE_THREAD)
	}
	for name, request := range map[string]uintptr{
		"TIOCSTI": unix.TIOCSTI, "TIOCSTI high": unix.TIOCSTI | 1<<32, "TIOCSTI all high": unix.TIOCSTI | 0xffffffff<<32,
		"TIOCLINUX": tioclinux, "TIOCLINUX high": tioclinux | 1<<63, "TIOCSETD": unix.TIOCSETD,
	} {
		add("ioctl "+name, ioctl, 0, request, 0)
	}
	for _, a := range runSyscalls(t, all) {
		if unix.Errno(a.Got) != want[a.Name] {
			t.Errorf("%s: %v, want %v", a.Name, unix.Errno(a.Got), want[a.Name])
		}
	}
}

func TestOrdinaryCallsPass(t *testing.T) {
	info := native(t)
	all := []attempt{
		// Each has one bit more or less than a refused one.
		{Name: "ioctl TCGETS", Nr: uintptr(info.SyscallNames["ioctl"]), Args: [6]uintptr{bad, unix.TCGETS}},
		{Name: "ioctl near TIOCSTI", Nr: uintptr(info.SyscallNames["ioctl"]), Args: [6]uintptr{bad, unix.TIOCSTI | 1}},
		{Name: "clone", Nr: uintptr(info.SyscallNames["clone"]), Args: [6]uintptr{unix.CLONE_THREAD}},
		{Name: "personality", Nr: uintptr(info.SyscallNames["personality"]), Args: [6]uintptr{0xffffffff}},
		{Name: "memfd_create", Nr: uintptr(info.SyscallNames["memfd_create"]), Args: [6]uintptr{bad}},
	}
	for _, a := range runSyscalls(t, all) {
		if e := unix.Errno(a.Got); e == unix.EPERM || e == unix.ENOSYS {
			t.Errorf("%s: %v", a.Name, e)
		}
	}
}

func TestX32IsRefused(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("skip: x32 is of amd64")
	}
	const x32 = 0x40000000
	all := []attempt{
		{Name: "x32 getpid", Nr: x32 | unix.SYS_GETPID},
		{Name: "x32 unshare", Nr: x32 | unix.SYS_UNSHARE, Args: [6]uintptr{unix.CLONE_NEWUSER}},
	}
	for _, a := range runSyscalls(t, all) {
		if unix.Errno(a.Got) != unix.ENOSYS {
			t.Errorf("%s: %v, want ENOSYS", a.Name, unix.Errno(a.Got))
		}
	}
}

func runSyscalls(t *testing.T, all []attempt) []attempt {
	t.Helper()
	dir := probeDir(t)
	n := start(t, visible(dir))
	order, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	r := runIn(t, n, command(dir+"/probe", "probe-syscalls", string(order)))
	var got []attempt
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatalf("probe: %v; %+v", err, r)
	}
	return got
}

// int80 returns a program that calls getpid by the numbers of i386, and ends with
// 0 where it got through. It is written out, for no compiler is at hand where
// other kernels are tested.
func int80(t *testing.T) []byte {
	t.Helper()
	code := []byte{
		0xb8, 20, 0, 0, 0, // mov eax, 20 (getpid of i386)
		0xcd, 0x80, // int 0x80
		0x31, 0xff, // xor edi, edi
		0x85, 0xc0, // test eax, eax
		0x7f, 0x02, // jg over the next
		0xff, 0xc7, // inc edi
		0xb8, 60, 0, 0, 0, // mov eax, 60 (exit of x86-64)
		0x0f, 0x05, // syscall
	}
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	var file bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
			Filesz: size, Memsz: size, Align: 4096,
		},
		code,
	} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

func TestForeignArchitectureIsKilled(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("skip: int 0x80 is of amd64")
	}
	dir := probeDir(t)
	program := filepath.Join(dir, "int80")
	if err := os.WriteFile(program, int80(t), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(program).Run(); err != nil {
		testenv.SkipOn(t, &testenv.Skip{Reason: "this kernel has no i386 calls: " + err.Error()})
	}
	n := start(t, visible(dir))
	if r := runIn(t, n, command(program)); r.status.Signal != syscall.SIGSYS {
		t.Errorf("int 0x80: %+v, want SIGSYS", r)
	}
}

// A row whose call one architecture lacks must say so, or its program does not
// assemble there; and only such a row may say so.
func TestRefusalsOnBothArchitectures(t *testing.T) {
	for _, r := range refusals() {
		_, amd64 := arch.X86_64.SyscallNames[r.call]
		_, arm64 := arch.AARCH64.SyscallNames[r.call]
		if !amd64 || arm64 == r.only64 {
			t.Errorf("%s: amd64 %v, arm64 %v, only64 %v", r.call, amd64, arm64, r.only64)
		}
		if r.why == "" {
			t.Errorf("%s: no reason", r.call)
		}
	}
}
