package launch

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/tty"
)

// umask of a command; it can change it.
const umask = 0o022

// execMain is sandbox-exec: it becomes a command.
func execMain() int {
	// From here to execve everything happens on this thread.
	runtime.LockOSThread()
	var e execProcess
	return report(e.become()) // only where it failed
}

type execProcess struct {
	order   execOrder
	mount   int    // the sandbox's mount namespace
	streams [3]int // the command's descriptors 0 to 2
	ruleset int    // of Landlock, where the order says so
	self    int    // this very program, where the order is for one of its own
}

// become does not return where it succeeds.
func (e *execProcess) become() error {
	err := run([]step{
		{"arm parent death signal", dieWithAgent},
		{"set not dumpable", setNotDumpable},
		{"receive order", e.receive},
		{"open own program", e.openSelf},
		{"be spared no more than others", forgoSparing},
		{"enter mount namespace", e.enterMounts},
		{"open terminal", e.openTerminal},
		{"set streams", e.setStreams},
		{"limit core files", limitCore},
		{"empty capability sets", dropBounding},
		{"become user", func() error { return becomeUser(e.order.UID, e.order.GID, e.order.Groups) }},
		{"clear capabilities", func() error { return setCapabilities(0) }},
		{"arm parent death signal", e.dieOrOutlive},
		{"set not dumpable", setNotDumpable}, // the new user made it what the machine's default is
		{"set no_new_privs", setNoNewPrivs},
		{"verify that privileges are gone", func() error { return verifyDropped(e.order.UID, e.order.GID, e.order.Groups) }},
		{"enter working directory", e.enterDir},
		{"close descriptors", closeAbove2},
		{"fence files", e.fence},
		{"install seccomp filter", func() error { return installFilters(0) }},
	})
	if err != nil {
		return err
	}
	if e.order.Builtin != "" {
		return e.execSelf()
	}
	return e.exec()
}

func (e *execProcess) receive() error {
	fds, err := receiveOrder(&e.order)
	if err != nil {
		return err
	}
	want := 4
	if e.order.Fenced {
		want = 5
	}
	if len(fds) != want {
		return fmt.Errorf("%d descriptors came instead of %d", len(fds), want)
	}
	// Once more where it counts: nothing that the agent says makes a root command.
	if e.order.UID == 0 {
		return ErrRoot
	}
	e.mount, e.streams, e.ruleset = fds[0], [3]int(fds[1:]), fds[want-1]
	return nil
}

// fence restricts this thread to the files that the policy names, and looks
// whether one that it does not name is closed now: there is no way to ask.
func (e *execProcess) fence() error {
	if !e.order.Fenced {
		return nil
	}
	if err := e.allowSelf(); err != nil {
		return err
	}
	if err := restrictThread(e.ruleset); err != nil {
		return err
	}
	path := string(e.order.Refused)
	if path == "" {
		return nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	if err != unix.EACCES {
		return fmt.Errorf("open %s, which the policy does not name: %w", path, errors.Join(errNotDropped, err))
	}
	return nil
}

// dieOrOutlive comes after the last change of credentials, which has disarmed the
// signal of the start: until here, every command ends with the agent.
func (e *execProcess) dieOrOutlive() error {
	if !e.order.Detached {
		return dieWithAgent()
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("disarm parent death signal: %w", err)
	}
	return nil
}

// enterMounts moves this thread, whose root and working directory become the
// namespace's root. A thread that shares them with others is not let in.
func (e *execProcess) enterMounts() error {
	if err := enterMountNS(e.mount); err != nil {
		return err
	}
	unix.Umask(umask)
	return nil
}

// enterMountNS moves the calling thread alone.
func enterMountNS(mount int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare root and working directory: %w", err)
	}
	if err := unix.Setns(mount, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("set namespace: %w", err)
	}
	return nil
}

// openTerminal opens a pty from the sandbox's own devpts, makes it this session's
// controlling terminal and sends its master to the agent. The process leads its
// own session since it was started.
func (e *execProcess) openTerminal() error {
	if e.order.Terminal == [3]bool{} {
		return nil
	}
	master, slave, err := tty.Open()
	if err != nil {
		return err
	}
	if err := tty.SetSize(slave, e.order.Size); err != nil {
		return err
	}
	fd := int(slave.Fd())
	if err := unix.Fchown(fd, int(e.order.UID), -1); err != nil {
		return fmt.Errorf("give terminal to user: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("make it the controlling terminal: %w", err)
	}
	for i, wanted := range e.order.Terminal {
		if wanted {
			e.streams[i] = fd
		}
	}
	return sendReply(reply{}, int(master.Fd()))
}

func (e *execProcess) setStreams() error {
	for i, fd := range e.streams {
		// The numbers 0 to 2 are taken since the start, so fd is none of them.
		if err := unix.Dup3(fd, i, 0); err != nil {
			return fmt.Errorf("set descriptor %d: %w", i, err)
		}
	}
	return nil
}

// enterDir comes after the drop: it is the user who must be able to.
func (e *execProcess) enterDir() error {
	dir := string(e.order.Dir)
	err := unix.Chdir(dir)
	if err == nil {
		return nil
	}
	return &StepError{
		Step: "enter working directory", Err: pathError("chdir", dir, err), Code: ExitRingfence,
		Hint: dirHint(dir, e.order.UID, err),
	}
}

func dirHint(dir string, uid uint32, err error) string {
	if err == unix.EACCES {
		return fmt.Sprintf("user %d of the sandbox may not enter %s: choose another --workdir or --user, or give that user access to it and to the directories above", uid, dir)
	}
	return fmt.Sprintf("%s is no directory that the sandbox sees: choose another --workdir", dir)
}

// closeAbove2 marks every descriptor but the command's three for closing at
// execve: closing them now would take the runtime's own from under it, and the
// socket over which a failure is told.
func closeAbove2() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range (Linux 5.11 or newer): %w", err)
	}
	return nil
}

// exec executes the command; candidates are tried as a shell does.
func (e *execProcess) exec() error {
	argv, env := textStrings(e.order.Argv), textStrings(e.order.Env)
	search := !strings.Contains(argv[0], "/")
	denied := error(nil)
	for _, path := range candidates(argv[0], env) {
		// Exec also gives back the limit of open files that the runtime raised.
		err := syscall.Exec(path, argv, env)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		case errors.Is(err, unix.EACCES):
			if !search || isFile(path) {
				denied = e.notAllowed(path, err)
			}
		default:
			return notExecutable(pathError("exec", path, err))
		}
	}
	if denied != nil {
		return denied
	}
	return notFound(argv[0])
}

// isFile tells a file that may not be executed, which the search ends with, from
// a directory of PATH that may not be looked into, which it passes over.
func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func notFound(name string) error {
	err := &StepError{Step: "find command", Err: pathError("find", name, unix.ENOENT), Code: ExitNotFound}
	if isMasked(name) {
		err.Hint = "/tmp, /run and their like are the sandbox's own; of the host's, only the working directory is seen there"
	}
	return err
}

func notExecutable(err error) *StepError {
	return &StepError{Step: "execute command", Err: err, Code: ExitNotExec}
}

// notAllowed is a file that may not be executed. Landlock does not change what
// access(2) says, so where that says yes, it is the policy that refuses.
func (e *execProcess) notAllowed(path string, err error) error {
	refused := notExecutable(pathError("exec", path, err))
	if e.order.Fenced && isFile(path) && unix.Access(path, unix.X_OK) == nil {
		refused.Hint = "the policy's filesystem_policy does not let it be executed, or not the loader (or interpreter) that it needs: add their directories to read_only"
	}
	return refused
}

// candidates returns the paths that a command's name may stand for.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	path := defaultPath
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = value
		}
	}
	var all []string
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "." // as the shells read it
		}
		all = append(all, dir+"/"+name)
	}
	return all
}

func textStrings(list [][]byte) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

// isSocket reports whether a descriptor is a socket, or cannot be told.
func isSocket(f *os.File) bool { return isOfType(f, unix.S_IFSOCK) }

// isDirectory reports whether a descriptor is a directory, or cannot be told.
func isDirectory(f *os.File) bool { return isOfType(f, unix.S_IFDIR) }

func isOfType(f *os.File, kind uint32) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return true
	}
	return st.Mode&unix.S_IFMT == kind
}
