package launch

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/rootfs"
)

// Files says which files the programs of a sandbox may use, by absolute paths as
// they see them. What lies beneath a path is meant too.
type Files struct {
	ReadOnly  []string // read and executed
	ReadWrite []string // written as well; what is missing is made a directory of User's
	// Workdir is one more ReadWrite that is not made; empty for none.
	Workdir string
}

// filesOrder is Files on their way: paths need not be UTF-8.
type filesOrder struct {
	ReadOnly  [][]byte `json:"read_only"`
	ReadWrite [][]byte `json:"read_write"`
	Workdir   []byte   `json:"workdir"`
}

func (f *Files) order() *filesOrder {
	if f == nil {
		return nil
	}
	return &filesOrder{byteStrings(f.ReadOnly), byteStrings(f.ReadWrite), []byte(f.Workdir)}
}

// Why a path is left out. Each is told with the path.
var (
	errIsRoot      = errors.New("it is the root: everything would be writable")
	errPlantedLink = errors.New("a symbolic link on the way was, or could have been, put there by the sandbox's user")
)

// fence makes the ruleset of Landlock that says what Files says, once for a
// sandbox and before anything of it runs: what a path leads to is decided while
// nobody inside can change it, and is the same for each command.
type fence struct {
	user     rootfs.User
	required bool
	handled  accessRights
	ruleset  int
	root     *os.File // O_PATH
	rootOpen bool     // the root directory itself may be read
	warnings []string
}

// fenceFiles returns a fence, whose ruleset is -1 where there is none: because
// nothing was asked for, or the kernel has no Landlock.
func fenceFiles(order *initOrder) (_ *fence, err error) {
	f := &fence{user: order.User, required: order.Required, ruleset: -1}
	abi, err := landlockABI()
	if err != nil {
		return nil, err
	}
	if f.required && abi < abiTruncate {
		return nil, &StepError{
			Step: "fence files", Code: ExitRingfence, Err: errors.New("this kernel has no Landlock that does what the policy requires (Linux 6.2 or newer)"),
			Hint: "boot with landlock among the modules of lsm=, or write landlock: {compatibility: best_effort} to run without",
		}
	}
	files := order.Files
	if files == nil {
		return f, nil
	}
	if f.root, err = os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	defer f.root.Close()
	if err := f.makeDirectories(textStrings(files.ReadWrite)); err != nil {
		return nil, err
	}
	if abi == 0 {
		f.warn("this kernel has no Landlock, or booted without it: files are not restricted")
		return f, nil
	}
	for _, missing := range missingRights(abi) {
		f.warn("the Landlock of this kernel is old: " + missing)
	}
	f.handled = fileRightsOf(abi)
	if f.ruleset, err = createRuleset(&unix.LandlockRulesetAttr{Handled_access_fs: uint64(f.handled)}); err != nil {
		return nil, err
	}
	if err := errors.Join(f.allowOwn(), f.allowAll(files)); err != nil {
		_ = unix.Close(f.ruleset)
		return nil, err
	}
	return f, nil
}

// refused returns a path whose reading the ruleset must refuse; empty where the
// policy allows the only one that every user could else read.
func (f *fence) refused() string {
	if f.ruleset < 0 || f.rootOpen {
		return ""
	}
	return "/"
}

func (f *fence) warn(text string) { f.warnings = append(f.warnings, text) }

// allowOwn allows what is the sandbox's own and not the host's, whatever the policy
// says. A policy is about the host's files, and no shell starts without /dev/null.
//
// /dev is init's own tmpfs: a few harmless nodes and ptys, on which terminals need
// ioctl. /dev/shm and /dev/mqueue are shared memory and queues, by other names than
// a file's. /proc is mounted read-only, and shows the sandbox's own processes. The
// files of name resolution lead to the sandbox's DNS. Nothing there is executable.
func (f *fence) allowOwn() error {
	const (
		read  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
		write = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	)
	for _, own := range []struct {
		path   string
		rights accessRights
	}{
		{"/dev", read | write | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
		{"/dev/shm", writeRights &^ unix.LANDLOCK_ACCESS_FS_EXECUTE},
		{"/dev/mqueue", writeRights &^ unix.LANDLOCK_ACCESS_FS_EXECUTE},
		{"/proc", read},
		{"/etc/resolv.conf", read},
		{"/etc/hosts", read},
		{"/etc/nsswitch.conf", read},
	} {
		fd, err := unix.Open(own.path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue // a kernel without queues, a host without nsswitch.conf
		}
		if err == nil {
			err = f.allow(fd, own.rights)
			_ = unix.Close(fd)
		}
		if err != nil {
			return pathError("allow", own.path, err)
		}
	}
	return nil
}

// allowAll allows what the policy says. A path that cannot be is left out with a
// warning, and the rest stands, unless all of them are required.
func (f *fence) allowAll(files *filesOrder) error {
	for _, list := range []struct {
		paths  [][]byte
		rights accessRights
	}{{files.ReadOnly, readRights}, {files.ReadWrite, writeRights}} {
		for _, p := range list.paths {
			if err := f.consider(string(p), f.allowPath(string(p), list.rights)); err != nil {
				return err
			}
		}
	}
	workdir := string(files.Workdir)
	switch {
	case workdir == "":
		return nil
	case path.Clean(workdir) == "/":
		return f.consider(workdir, errIsRoot)
	}
	return f.consider(workdir, f.allowPath(workdir, writeRights))
}

// consider returns the error of a path where all are required, and else tells it.
func (f *fence) consider(path string, err error) error {
	if err == nil {
		return nil
	}
	if !f.required {
		f.warn(fmt.Sprintf("filesystem_policy: %s is left out: %v", path, err))
		return nil
	}
	return &StepError{
		Step: "fence files", Err: fmt.Errorf("filesystem_policy: %s: %w", path, err), Code: ExitRingfence,
		Hint: "make it right, take it out of the policy, or write landlock: {compatibility: best_effort} to run without that path",
	}
}

func (f *fence) allowPath(path string, rights accessRights) error {
	fd, err := f.open(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if isRoot, err := f.isRoot(fd); err != nil || isRoot && rights != readRights {
		return errors.Join(errIsRoot, err)
	} else if isRoot {
		f.rootOpen = true
	}
	return f.allow(fd, rights)
}

// open opens a path of the policy, with O_PATH. Links on the way are followed, as
// /lib is one, but none that the sandbox's user could have put there: it would say
// what the policy means, for the next sandbox if not for this one.
func (f *fence) open(path string) (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != unix.ELOOP {
		return fd, err
	}
	fd, planted, err := rootfs.New(f.root).Hold(path, f.user)
	if err == nil && planted {
		_ = unix.Close(fd)
		return -1, errPlantedLink
	}
	return fd, err
}

func (f *fence) isRoot(fd int) (bool, error) {
	var here, root unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &here), unix.Fstat(int(f.root.Fd()), &root)); err != nil {
		return false, err
	}
	return here.Dev == root.Dev && here.Ino == root.Ino, nil
}

// allow adds a rule, with those of the rights that the kernel and the file have.
func (f *fence) allow(fd int, rights accessRights) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	rights &= f.handled
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= fileRights
	}
	return allowBeneath(f.ruleset, fd, rights)
}
