package launch

import (
	"os"

	"golang.org/x/sys/unix"
)

// ttyOptions make ptys of the sandbox its own. Group 5 is tty on every
// distribution: without it an older C library wants a helper program to open one.
const ttyOptions = "newinstance,ptmxmode=0666,mode=0620,gid=5"

// holdDevices takes the device nodes that a program may expect, and that do no
// harm. They are the host's nodes, so that no right to make any is needed.
func (v *view) holdDevices() error {
	for _, path := range []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"} {
		h, err := hold(path)
		if err != nil {
			return err
		}
		v.devices = append(v.devices, h)
	}
	return nil
}

// mountDev makes a /dev of its own: no disks, no consoles, no kernel log, and
// ptys that the host's terminals know nothing of.
func (v *view) mountDev() error {
	const flags = unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", flags|unix.MS_NODEV, "mode=0755,size=64k,nr_inodes=64"); err != nil {
		return pathError("mount", "/dev", err)
	}
	if err := showAll(v.devices); err != nil {
		return err
	}
	for _, m := range []struct{ path, kind, options string }{
		{"/dev/pts", "devpts", ttyOptions},
		{"/dev/shm", "tmpfs", "mode=1777,size=25%"},
		{"/dev/mqueue", "mqueue", ""},
	} {
		if err := os.Mkdir(m.path, 0o755); err != nil {
			return err
		}
		err := unix.Mount(m.kind, m.path, m.kind, flags|nodevFor(m.kind), m.options)
		if err == unix.ENODEV && m.kind == "mqueue" {
			continue // a kernel without POSIX message queues
		}
		if err != nil {
			return pathError("mount", m.path, err)
		}
	}
	for _, l := range []struct{ name, target string }{
		{"ptmx", "pts/ptmx"},
		{"fd", "/proc/self/fd"},
		{"stdin", "/proc/self/fd/0"},
		{"stdout", "/proc/self/fd/1"},
		{"stderr", "/proc/self/fd/2"},
	} {
		if err := os.Symlink(l.target, "/dev/"+l.name); err != nil {
			return err
		}
	}
	return nil
}

// nodevFor: terminals are devices, the rest holds none.
func nodevFor(kind string) uintptr {
	if kind == "devpts" {
		return 0
	}
	return unix.MS_NODEV
}
