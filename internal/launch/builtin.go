package launch

import (
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Builtin is a program of our own that runs inside a sandbox as its user.
//
// It cannot run on in sandbox-exec, in which one thread has dropped and the others
// have not. So that executes this very program again, from a descriptor that it
// opened before it entered: in the sandbox there need be no path to it, and where
// there is one, it may lead to another version. The hooks find the image outside
// the sandbox's view, so it has no path that a policy could name.
type Builtin int

const (
	// BuiltinSFTP serves SFTP on descriptors 0 and 1, from Dir on.
	BuiltinSFTP Builtin = iota + 1
	// builtinDial connects sockets, see Namespaces.Dial.
	builtinDial
)

func (b Builtin) subcommand() string {
	switch b {
	case BuiltinSFTP:
		return sftpCommand
	case builtinDial:
		return dialCommand
	}
	return ""
}

// builtinFiles bounds what a program of our own may have open: what a client asks
// it to open, and a few of its own.
const builtinFiles = 1024

// openSelf comes before the view changes: there is no other way to this file.
func (e *execProcess) openSelf() (err error) {
	if e.order.Builtin == "" {
		return nil
	}
	e.self, err = unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	return pathError("open", "/proc/self/exe", err)
}

// allowSelf lets this program be executed, and so be read, by what is fenced from
// now on. The sandbox has one ruleset for its life, and an agent of another version
// may come: so it is here that the file is known. What the rule gives to the other
// programs is no more than the policy's own files give them: one program that has
// no privileges of its own, where they have a path to it.
func (e *execProcess) allowSelf() error {
	if e.order.Builtin == "" {
		return nil
	}
	return allowBeneath(e.ruleset, e.self, unix.LANDLOCK_ACCESS_FS_EXECUTE|unix.LANDLOCK_ACCESS_FS_READ_FILE)
}

// execSelf executes this program as a builtin, which inherits the control socket.
// The order names a subcommand, never a path or an argument.
func (e *execProcess) execSelf() error {
	if e.order.Builtin != sftpCommand && e.order.Builtin != dialCommand {
		return fmt.Errorf("%q is no program of our own: %w", e.order.Builtin, ErrBadCommand)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: builtinFiles, Max: builtinFiles}); err != nil {
		return fmt.Errorf("limit open files: %w", err)
	}
	if _, err := unix.FcntlInt(controlFD, unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("keep control socket: %w", err)
	}
	// By the link, not by execveat: syscall.Exec waits until the runtime starts no
	// thread, which would crash where execve comes between.
	path := filepath.Join("/proc/self/fd", strconv.Itoa(e.self))
	return notExecutable(pathError("exec", path, syscall.Exec(path, []string{"ringfence", e.order.Builtin}, nil)))
}

// builtinMain is a program of our own. sandbox-exec has dropped all that there was;
// what execve undoes is done again, and the rest is read back.
func builtinMain(serve func() error) int {
	err := run([]step{
		{"set not dumpable", setNotDumpable},
		{"verify that privileges are gone", verifyBuiltin},
		{"report ready", func() error {
			unix.CloseOnExec(controlFD)
			return sendReply(reply{})
		}},
	})
	if err != nil {
		return report(err)
	}
	if err := serve(); err != nil {
		return ExitRingfence // there is nobody who would read what it was
	}
	return 0
}

// verifyBuiltin is verifyDropped without knowing whom the order named: not root, in
// any of the three.
func verifyBuiltin() error {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	if ruid == 0 || euid != ruid || suid != ruid || egid != rgid || sgid != rgid {
		return fmt.Errorf("user is %d/%d/%d, group %d/%d/%d: %w", ruid, euid, suid, rgid, egid, sgid, errNotDropped)
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("read groups: %w", err)
	}
	var have []uint32
	for _, g := range groups {
		have = append(have, uint32(g))
	}
	if err := verifyDropped(uint32(ruid), uint32(rgid), have); err != nil {
		return err
	}
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	if err != nil || mode != unix.SECCOMP_MODE_FILTER {
		return fmt.Errorf("the seccomp mode is %d: %w", mode, errNotDropped)
	}
	return nil
}
