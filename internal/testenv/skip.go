package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Skip is the error that says why a kernel test cannot run on this machine.
type Skip struct {
	Reason string
}

// Error returns the reason.
func (s *Skip) Error() string { return "cannot run here: " + s.Reason }

// SkipOn ends the test when err is not nil: as a skip where err is a *Skip, else
// as a failure. In CI (CI=true) a skip is a failure too, so that a machine that
// cannot run the kernel tests is not mistaken for one that passed them.
func SkipOn(tb testing.TB, err error) {
	tb.Helper()
	if err == nil {
		return
	}
	var skip *Skip
	if errors.As(err, &skip) && os.Getenv("CI") != "true" {
		tb.Skip(skip.Error())
	}
	tb.Fatal(err)
}

// Require ends the test as SkipOn does, unless it runs as root on a kernel that
// makes BPF maps for it and the named tools are installed.
func Require(tb testing.TB, tools ...string) {
	tb.Helper()
	SkipOn(tb, check(tools...))
}

// RequireKernel ends the test as SkipOn does on kernels older than major.minor.
func RequireKernel(tb testing.TB, feature string, major, minor int) {
	tb.Helper()
	have, err := kernelVersion()
	if err != nil {
		tb.Fatal(err)
	}
	if have[0] < major || have[0] == major && have[1] < minor {
		SkipOn(tb, &Skip{fmt.Sprintf("%s needs Linux %d.%d, this is %d.%d", feature, major, minor, have[0], have[1])})
	}
}

// RequireLandlock ends the test as SkipOn does where the kernel's Landlock is older
// than a version of its interface, or was not chosen at boot.
func RequireLandlock(tb testing.TB, abi int) {
	tb.Helper()
	have, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		SkipOn(tb, &Skip{"needs Landlock: " + errno.Error()})
	}
	if int(have) < abi {
		SkipOn(tb, &Skip{fmt.Sprintf("needs version %d of Landlock, this is %d", abi, have)})
	}
}

func kernelVersion() ([2]int, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return [2]int{}, fmt.Errorf("read kernel version: %w", err)
	}
	var v [2]int
	release := unix.ByteSliceToString(uts.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &v[0], &v[1]); err != nil {
		return v, fmt.Errorf("parse kernel version %q: %w", release, err)
	}
	return v, nil
}

func check(tools ...string) error {
	if uid := os.Geteuid(); uid != 0 {
		return &Skip{fmt.Sprintf("needs root, this is uid %d", uid)}
	}
	if err := tryBPF(); err != nil {
		return &Skip{"needs bpf(2): " + err.Error()}
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return &Skip{"needs " + tool + " (see scripts/deps)"}
		}
	}
	return nil
}

// tryBPF makes an array map of one entry. The datapath's library has its home
// elsewhere, and this much of the system call needs no library.
func tryBPF() error {
	const bpfMapTypeArray = 2
	attr := struct{ mapType, keySize, valueSize, maxEntries, flags uint32 }{bpfMapTypeArray, 4, 4, 1, 0}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}
