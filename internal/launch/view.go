package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/rootfs"
)

// buildView turns the copy of the host's mounts that init was started with into
// the sandbox's view. It writes to file systems that it has mounted itself, and
// to nothing else; directories that the policy wants are made later (fence).
func buildView(order initOrder) error {
	v := &view{order: order}
	// What the masks would hide is taken hold of before them.
	return run([]step{
		{"make mounts private", makePrivate},
		{"hold visible paths", v.holdVisible},
		{"hold devices", v.holdDevices},
		{"mount /proc", mountProc},
		{"mount /sys", mountSys},
		{"mount /dev", v.mountDev},
		{"mask directories", v.maskDirectories},
		// Before anything of the host's is shown again, so that it writes to masks only.
		{"write name service files", v.nameService},
		{"show visible paths", v.showVisible},
		{"hide kernel file systems", hideKernel},
		{"enter root directory", func() error { return unix.Chdir("/") }},
	})
}

type view struct {
	order   initOrder
	visible []held
	devices []held
}

// held is a detached mount of a path, to be put back after the masks.
type held struct {
	path string
	tree int
	dir  bool
}

// makePrivate cuts the namespace off: what is mounted here is not seen by the
// host, and the other way round.
func makePrivate() error {
	return pathError("make private", "/", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// masks are the directories of which the sandbox gets its own: there are the
// sockets of the host's services and sessions. A missing one, or one that is a
// symlink to another, is passed over. The sizes bound what a sandbox can make the
// host hold in memory.
func masks() []mask {
	return []mask{
		{"/run", "mode=0755,size=10%"},
		{"/var/run", "mode=0755,size=10%"},
		{"/tmp", "mode=1777,size=50%"},
		{"/var/tmp", "mode=1777,size=25%"},
	}
}

type mask struct{ path, options string }

func (v *view) maskDirectories() error {
	for _, m := range masks() {
		info, err := os.Lstat(m.path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
			continue
		}
		if err == nil {
			err = unix.Mount("tmpfs", m.path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, m.options)
		}
		if err != nil {
			return pathError("mask", m.path, err)
		}
	}
	return nil
}

// isMasked reports whether path lies below a directory that the sandbox gets its
// own of. Such a directory itself does not: whoever works in /tmp gets the
// sandbox's.
func isMasked(path string) bool {
	below := func(dir string) bool { return strings.HasPrefix(path, dir+"/") }
	if below("/dev/shm") {
		return true
	}
	for _, m := range masks() {
		if below(m.path) {
			return true
		}
	}
	return false
}

func (v *view) holdVisible() error {
	root, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, path := range textStrings(v.order.Visible) {
		real, err := filepath.EvalSymlinks(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the command's own chdir has the better error
		}
		if err != nil {
			return err
		}
		if !isMasked(real) {
			continue
		}
		h, err := holdAsNamed(root, path, real)
		if err != nil {
			return err
		}
		v.visible = append(v.visible, h)
	}
	return nil
}

var (
	errAnybodysLink = errors.New("a symbolic link on the way is not root's alone")
	errMoved        = errors.New("it changes while it is looked at")
)

// holdAsNamed takes hold of what lies at real, to which path leads. Who has named path
// meant what is there: a link that others than root could have put there may lead to
// a service of the host's, of which the sandbox has its own or none. A sandbox that is
// made anew could have been waiting for that.
func holdAsNamed(root *os.File, path, real string) (held, error) {
	meant, planted, err := rootfs.New(root).Hold(path, rootfs.Others())
	if err != nil {
		return held{}, err
	}
	defer unix.Close(meant)
	if planted {
		return held{}, &StepError{
			Step: "show " + path, Err: errAnybodysLink, Code: ExitRingfence,
			Hint: "name the directory that is meant, without a link",
		}
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, real, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return held{}, pathError("hold", real, err)
	}
	defer unix.Close(fd)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(meant, &a), unix.Fstat(fd, &b)); err != nil {
		return held{}, pathError("hold", real, err)
	}
	if a.Dev != b.Dev || a.Ino != b.Ino {
		return held{}, pathError("hold", real, errMoved)
	}
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return held{}, pathError("hold", real, err)
	}
	return held{path: real, tree: tree, dir: b.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

// hold takes a detached copy of what is at path, with what is mounted below it.
func hold(path string) (held, error) {
	info, err := os.Stat(path)
	if err != nil {
		return held{}, err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return held{}, pathError("hold", path, err)
	}
	return held{path: path, tree: tree, dir: info.IsDir()}, nil
}

func (v *view) showVisible() error { return showAll(v.visible) }

// showAll mounts what was held, making the way to it on the masks.
func showAll(all []held) error {
	for _, h := range all {
		if err := os.MkdirAll(filepath.Dir(h.path), 0o755); err != nil {
			return err
		}
		if err := h.show(); err != nil {
			return err
		}
	}
	return nil
}

func (h held) show() error {
	var err error
	if h.dir {
		err = os.MkdirAll(h.path, 0o755)
	} else {
		err = touch(h.path)
	}
	if err != nil {
		return err
	}
	if err := unix.MoveMount(h.tree, "", unix.AT_FDCWD, h.path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return pathError("mount", h.path, err)
	}
	return unix.Close(h.tree)
}

// touch makes an empty file where there is none, to be mounted over.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// mountProc: read-only, because a program may write /proc/PID/mem of another one
// of its user, and so speak as one that is allowed more: a filter of system calls
// does not see which file is opened. What else is to be written there (names of
// other threads, oom_score_adj) programs do without.
func mountProc() error {
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return pathError("mount", "/proc", unix.Mount("proc", "/proc", "proc", flags, ""))
}

// mountSys: a fresh sysfs shows the devices of this network namespace, and none
// of what is mounted below the host's.
func mountSys() error {
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return pathError("mount", "/sys", unix.Mount("sysfs", "/sys", "sysfs", flags, ""))
}

// kernelTypes are the file systems through which the kernel, the fence or the
// host's containers are seen or changed.
func kernelTypes() []string {
	return []string{"cgroup", "cgroup2", "bpf", "debugfs", "tracefs", "securityfs", "configfs", "pstore", "efivarfs", "binfmt_misc", "resctrl", "nsfs"}
}

// hideKernel unmounts the kernel's file systems wherever the host has them, and
// then looks whether one can still be reached: a mount that another covers cannot
// be unmounted by its path, and need not be.
func hideKernel() error {
	mounts, err := cgroup.Mounts("/proc/self/mountinfo", kernelTypes()...)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) { // the last one is on top
		if hidden, _ := isHidden(m.Point); !hidden {
			// An error is judged by the look below.
			_ = unix.Unmount(m.Point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	for _, m := range mounts {
		hidden, err := isHidden(m.Point)
		if err != nil {
			return err
		}
		if !hidden {
			return fmt.Errorf("hide %s: %s is still there", m.Point, m.Type)
		}
	}
	return nil
}

func isHidden(path string) (bool, error) {
	var fsys unix.Statfs_t
	switch err := unix.Statfs(path, &fsys); err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR:
		return true, nil
	default:
		return false, pathError("stat", path, err)
	}
	switch uint32(fsys.Type) {
	case unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.BPF_FS_MAGIC, unix.DEBUGFS_MAGIC,
		unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC,
		unix.BINFMTFS_MAGIC, unix.RDTGROUP_SUPER_MAGIC, unix.NSFS_MAGIC, configfsMagic:
		return false, nil
	}
	return true, nil
}

// configfsMagic is CONFIGFS_MAGIC, which x/sys does not have.
const configfsMagic = 0x62656570
