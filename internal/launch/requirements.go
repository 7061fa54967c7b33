package launch

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/floor"
)

// Requirements says what of this package's the machine has, and lets this process
// do. Nothing of this process is changed.
func Requirements() []floor.Requirement {
	return append([]floor.Requirement{namespaces(), calls(), seccompFilters()}, landlockRequirements()...)
}

// Privileges says whether this process has what the privileged child starts with.
func Privileges() []floor.Requirement { return []floor.Requirement{root(), capabilities()} }

// root asks for uid 0 of the machine's: the one of a user namespace has capabilities
// over that namespace alone.
func root() floor.Requirement {
	r := floor.Requirement{Name: "root", State: floor.Met, Found: "uid 0", Hint: "run it as root: sudo ringfence ..."}
	if uid := os.Geteuid(); uid != 0 {
		r.State, r.Found = floor.Missing, fmt.Sprintf("uid %d", uid)
		return r
	}
	text, err := os.ReadFile("/proc/self/uid_map")
	switch whole := strings.Join(strings.Fields(string(text)), " "); {
	case err != nil:
		r.State, r.Found = floor.Unknown, err.Error()
	case whole != "0 0 4294967295":
		r.State, r.Found = floor.Missing, "uid 0 of a user namespace only"
	}
	return r
}

// neededCapabilities are those without which sandboxes cannot be made or used, found by
// taking each away in turn. They are those of deploy/systemd/ringfence.service.
func neededCapabilities() []capability {
	return []capability{
		{unix.CAP_CHOWN, "CAP_CHOWN"}, {unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
		{unix.CAP_KILL, "CAP_KILL"}, {unix.CAP_SETGID, "CAP_SETGID"}, {unix.CAP_SETUID, "CAP_SETUID"},
		{unix.CAP_SETPCAP, "CAP_SETPCAP"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
		{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"}, {unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
	}
}

type capability struct {
	number int
	name   string
}

func capabilities() floor.Requirement {
	r := floor.Requirement{
		Name: "capabilities", State: floor.Met,
		Hint: "run it as root with all of root's capabilities; in a container, run that privileged",
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		r.State, r.Found = floor.Unknown, err.Error()
		return r
	}
	effective := uint64(data[0].Effective) | uint64(data[1].Effective)<<32
	var have, lacking []string
	for _, c := range neededCapabilities() {
		if effective&(1<<c.number) == 0 {
			lacking = append(lacking, c.name)
		} else {
			have = append(have, c.name)
		}
	}
	r.Found = fmt.Sprintf("all %d that are needed", len(have))
	if len(lacking) > 0 {
		r.State, r.Found = floor.Missing, "no "+strings.Join(lacking, ", ")
	}
	if len(have) == 0 {
		r.Found = "none of those that are needed"
	}
	return r
}

func namespaces() floor.Requirement {
	r := floor.Requirement{
		Name: "mount, pid, ipc and uts namespaces", State: floor.Met, Found: "there",
		Hint: "the kernel needs CONFIG_NAMESPACES and what is below it, and /proc has to be mounted",
	}
	for _, name := range []string{"mnt", "pid", "ipc", "uts"} {
		if _, err := os.Stat("/proc/self/ns/" + name); err != nil {
			r.State, r.Found = floor.Missing, err.Error()
			return r
		}
	}
	return r
}

// call is a system call with arguments that every kernel which knows it refuses, so
// that asking does nothing.
type call struct {
	name string
	nr   uintptr
	args [5]uintptr
}

const nowhere = ^uintptr(0) // no descriptor, and flags that there are none of

func neededCalls() []call {
	return []call{
		{"clone3", unix.SYS_CLONE3, [5]uintptr{}},
		{"close_range", unix.SYS_CLOSE_RANGE, [5]uintptr{1, 0}},
		{"memfd_create", unix.SYS_MEMFD_CREATE, [5]uintptr{0, nowhere}},
		{"openat2", unix.SYS_OPENAT2, [5]uintptr{nowhere}},
		{"open_tree", unix.SYS_OPEN_TREE, [5]uintptr{nowhere, 0, nowhere}},
		{"move_mount", unix.SYS_MOVE_MOUNT, [5]uintptr{nowhere, 0, nowhere, 0, nowhere}},
	}
}

// calls asks for system calls. A kernel of the floor has them all: what is missing is
// kept from this process, by the filter of a container.
func calls() floor.Requirement {
	r := floor.Requirement{
		Name: "system calls", State: floor.Met,
		Hint: "a container's seccomp profile refuses them: run it without, or privileged",
	}
	var untold, lacking []string
	for _, c := range neededCalls() {
		_, _, e := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
		switch {
		case e == unix.EPERM && os.Geteuid() != 0:
			untold = append(untold, c.name) // without the right to mount, the kernel says no more
		case e == unix.ENOSYS || e == unix.EPERM:
			lacking = append(lacking, fmt.Sprintf("%s (%s)", c.name, e.Error()))
		}
	}
	r.Found = fmt.Sprintf("all %d that are needed", len(neededCalls()))
	switch {
	case len(lacking) > 0:
		r.State, r.Found = floor.Missing, "no "+strings.Join(lacking, ", ")
	case len(untold) > 0:
		r.State, r.Found = floor.Unknown, "only root can tell of "+strings.Join(untold, ", ")
	}
	return r
}

// seccompFilters asks for the actions that the filters have.
func seccompFilters() floor.Requirement {
	r := floor.Requirement{
		Name: "seccomp filters", State: floor.Met, Found: "errors and kills",
		Hint: "the kernel needs CONFIG_SECCOMP_FILTER",
	}
	for _, action := range []uint32{unix.SECCOMP_RET_ERRNO, unix.SECCOMP_RET_KILL_PROCESS} {
		_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
		if e != 0 {
			r.State, r.Found = floor.Missing, e.Error()
		}
	}
	return r
}
