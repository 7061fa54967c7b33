package launch

import (
	"encoding/binary"
	"runtime"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict is what the filters answer to one call.
func verdict(t testing.TB, architecture, nr uint32, args ...uint64) uint32 {
	t.Helper()
	programs, err := filters()
	if err != nil {
		t.Fatal(err)
	}
	return machine(t, programs)(architecture, nr, args...)
}

// machine runs the programs as the kernel does: all of them, and the strictest
// answer counts.
func machine(t testing.TB, programs [][]unix.SockFilter) func(architecture, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var machines []*bpf.VM
	for _, program := range programs {
		var raw []bpf.RawInstruction
		for _, i := range program {
			raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
		}
		instructions, ok := bpf.Disassemble(raw)
		if !ok {
			t.Fatal("the program does not disassemble")
		}
		vm, err := bpf.NewVM(instructions)
		if err != nil {
			t.Fatal(err)
		}
		machines = append(machines, vm)
	}
	return func(architecture, nr uint32, args ...uint64) uint32 {
		return answer(t, machines, architecture, nr, args...)
	}
}

func answer(t testing.TB, machines []*bpf.VM, architecture, nr uint32, args ...uint64) uint32 {
	// The virtual machine reads big-endian words, seccomp native ones; the low half
	// of an argument comes first.
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data, nr)
	binary.BigEndian.PutUint32(data[4:], architecture)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	strictest := uint32(unix.SECCOMP_RET_ALLOW)
	for _, vm := range machines {
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		strictest = stricter(strictest, uint32(got))
	}
	return strictest
}

// stricter compares actions as the kernel does: as signed numbers, the lower is
// the stricter, so that killing the process is the strictest.
func stricter(a, b uint32) uint32 {
	if int32(b&unix.SECCOMP_RET_ACTION_FULL) < int32(a&unix.SECCOMP_RET_ACTION_FULL) {
		return b
	}
	return a
}

const (
	auditI386 = 0x40000003
	auditARM  = 0x40000028
	auditZero = 0
)

func TestFilterKillsForeignArchitectures(t *testing.T) {
	for _, foreign := range []uint32{auditI386, auditARM, auditZero, ^uint32(0)} {
		for _, nr := range []uint32{0, 20, 56, 400} {
			if got := verdict(t, foreign, nr); got != unix.SECCOMP_RET_KILL_PROCESS {
				t.Errorf("architecture %#x, call %d: %#x", foreign, nr, got)
			}
		}
	}
}

// A call is refused if it has a row, and only then.
func TestFilterRefusesExactlyTheTable(t *testing.T) {
	info := native(t)
	want := map[string]uint32{}
	for _, r := range refusals() {
		if r.when == nil && (!r.only64 || runtime.GOARCH == "amd64") {
			want[r.call] = uint32(r.action())
		}
	}
	for nr, name := range info.SyscallNumbers {
		expected, ok := want[name]
		if !ok {
			expected = unix.SECCOMP_RET_ALLOW
		}
		if name == "socket" || name == "socketpair" {
			continue // they are judged by their arguments: TestFilterAllowsListedSockets
		}
		if got := verdict(t, uint32(info.ID), uint32(nr)); got != expected {
			t.Errorf("%s: %#x, want %#x", name, got, expected)
		}
	}
}

func TestFilterLooksAtArguments(t *testing.T) {
	info := native(t)
	const refused, allowed = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), uint32(unix.SECCOMP_RET_ALLOW)
	tests := []struct {
		name string
		call string
		args []uint64
		want uint32
	}{
		{"thread", "clone", []uint64{0x3d0f00}, allowed},
		{"fork", "clone", []uint64{unix.CLONE_CHILD_SETTID | unix.CLONE_CHILD_CLEARTID | 17}, allowed},
		{"user namespace", "clone", []uint64{unix.CLONE_NEWUSER | 17}, refused},
		{"flags above 32 bits only", "clone", []uint64{unix.CLONE_NEWUSER << 32}, allowed},
		{"TIOCSTI", "ioctl", []uint64{0, unix.TIOCSTI}, refused},
		{"TIOCSTI, high bits", "ioctl", []uint64{0, 0xdeadbeef<<32 | unix.TIOCSTI}, refused},
		{"TIOCLINUX", "ioctl", []uint64{0, tioclinux}, refused},
		{"one bit more", "ioctl", []uint64{0, unix.TIOCSTI | 1}, allowed},
		{"one bit less", "ioctl", []uint64{0, unix.TIOCSTI &^ 2}, allowed},
		{"TIOCSETD", "ioctl", []uint64{0, unix.TIOCSETD}, refused},
		{"in the high half only", "ioctl", []uint64{0, unix.TIOCSTI << 32}, allowed},
		{"in another argument", "ioctl", []uint64{unix.TIOCSTI, unix.TCGETS, unix.TIOCSTI}, allowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := verdict(t, uint32(info.ID), uint32(info.SyscallNames[tt.call]), tt.args...); got != tt.want {
				t.Errorf("%#x, want %#x", got, tt.want)
			}
		})
	}
}
