package cgroup

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/floor"
)

// Requirements says what of this package's the machine has.
func Requirements() []floor.Requirement { return []floor.Requirement{hierarchy()} }

func hierarchy() floor.Requirement {
	r := floor.Requirement{
		Name: "a cgroup2 hierarchy that can be written",
		Hint: "mount it, beside v1 controllers or alone: mount -t cgroup2 none /sys/fs/cgroup/unified; in a container, give it the host's",
	}
	mounts, err := Mounts("/proc/self/mountinfo", "cgroup2")
	if err != nil {
		r.Found = err.Error()
		return r
	}
	root := choose(mounts)
	if root == "" {
		r.State, r.Found = floor.Missing, errNotMounted.Error()
		return r
	}
	r.Found = "mounted at " + root
	switch err := unix.Faccessat(unix.AT_FDCWD, root, unix.W_OK, unix.AT_EACCESS); {
	case err == nil:
		r.State = floor.Met
	case err == unix.EACCES && os.Geteuid() != 0:
		r.Found += "; only root can tell whether it can be written"
	default:
		r.State = floor.Missing
		r.Found += ": " + err.Error()
	}
	return r
}
