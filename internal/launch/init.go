package launch

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/rootfs"
)

// initUID is init's own user: none of the sandbox's, so that a command can
// neither trace nor signal it, and not root, which owns the host's files.
const initUID = reservedBase - 1

// signalRoom bounds the signals that wait: of one kind, some that come together
// may become one.
const signalRoom = 64

// initOrder is what the agent tells sandbox-init.
type initOrder struct {
	Name     string      `json:"name"`
	Visible  [][]byte    `json:"visible"` // paths need not be UTF-8
	User     rootfs.User `json:"user"`
	Files    *filesOrder `json:"files,omitempty"`
	Required bool        `json:"required"` // Landlock is
	// Anchored: init outlives the agent. The socket of its anchor comes with the
	// order, and perhaps the sandbox's memory.
	Anchored bool `json:"anchored"`
}

// initMain is sandbox-init: PID 1 of a sandbox.
func initMain() int {
	// The thread that drops keeps CAP_KILL to forward signals, so all is done here.
	runtime.LockOSThread()
	in := &initProcess{signals: make(chan os.Signal, signalRoom), caught: make(chan struct{})}
	go in.catch()
	if err := in.setUp(); err != nil {
		return report(err)
	}
	return in.serve()
}

type initProcess struct {
	order   initOrder
	signals chan os.Signal
	caught  chan struct{} // closed when signals are caught
	anchor  int           // its socket, where the order says so
	held    []heldFile    // on their way to the agent; with an anchor they stay
	fence   *fence
	ready   reply
}

// heldFile is a descriptor that the agent gets, by its name.
type heldFile struct {
	name string
	fd   int
}

func (in *initProcess) setUp() error {
	return run([]step{
		{"arm parent death signal", dieWithAgent}, // anchored or not, until it is ready
		{"receive order", in.receive},
		{"set host name", func() error { return unix.Sethostname([]byte(in.order.Name)) }},
		{"build file system view", func() error { return buildView(in.order) }},
		{"fence files", in.fenceFiles},
		{"open namespaces", in.open},
		{"catch signals", func() error { <-in.caught; return nil }},
		{"drop privileges", in.drop},
		{"verify that privileges are gone", verifyInit},
		{"listen on anchor", in.listen},
		{"report ready", func() error { return in.hand(controlFD) }},
		{"close descriptors", in.closeFDs},
	})
}

func (in *initProcess) receive() error {
	fds, err := receiveOrder(&in.order)
	if err != nil || !in.order.Anchored {
		return err
	}
	switch len(fds) {
	case 2:
		in.held = append(in.held, heldFile{memoryFile, fds[1]})
	case 1:
	default:
		return fmt.Errorf("%d descriptors came instead of 1 or 2", len(fds))
	}
	in.anchor = fds[0]
	return nil
}

// catch runs beside the steps: from a locked thread it would take milliseconds.
func (in *initProcess) catch() {
	signal.Notify(in.signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	close(in.caught)
}

// open opens what the agent will hold. It comes before the drop: afterwards this
// process's own /proc is closed to it.
func (in *initProcess) open() error {
	names := []string{mountFile, pidFile}
	if in.order.Anchored {
		names = append(names, ipcFile, utsFile, netFile)
	}
	for _, name := range names {
		path := "/proc/self/ns/" + name
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return pathError("open", path, err)
		}
		in.held = append(in.held, heldFile{name, fd})
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", "/", err)
	}
	in.held = append(in.held, heldFile{rootFile, root})
	if in.fence.ruleset >= 0 {
		in.held = append(in.held, heldFile{rulesetFile, in.fence.ruleset})
	}
	return nil
}

// hand sends what is held, and what is to be known of it.
func (in *initProcess) hand(socket int) error {
	r := in.ready
	var fds []int
	for _, h := range in.held {
		r.Files, fds = append(r.Files, h.name), append(fds, h.fd)
	}
	return sendReplyOn(socket, r, fds...)
}

func (in *initProcess) fenceFiles() (err error) {
	if in.fence, err = fenceFiles(&in.order); err != nil {
		return err
	}
	in.ready = reply{Warnings: boundWarnings(in.fence.warnings), Refused: in.fence.refused()}
	return nil
}

// drop gives up everything but CAP_KILL on this thread, without which kill(-1)
// would not reach the processes of another user. The other threads of the runtime
// lose all of theirs when the user changes; a bounding set, which is left to them,
// gives nothing to a thread that may not gain anything by execve.
func (in *initProcess) drop() error {
	return run([]step{
		{"replace streams", replaceStreams},
		{"limit core files", limitCore},
		{"empty capability sets", dropBounding},
		{"keep CAP_KILL", func() error { return unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0) }},
		// The wrappers of syscall change every thread; these are for the whole process.
		{"clear groups", func() error { return syscall.Setgroups(nil) }},
		{"set group", func() error { return syscall.Setresgid(initUID, initUID, initUID) }},
		{"set user", func() error { return syscall.Setresuid(initUID, initUID, initUID) }},
		{"set capabilities", func() error { return setCapabilities(1 << unix.CAP_KILL) }},
		{"set not dumpable", setNotDumpable},
		{"arm parent death signal", in.arm},
		{"set no_new_privs", setNoNewPrivs},
		{"install seccomp filter", func() error { return installFilters(unix.SECCOMP_FILTER_FLAG_TSYNC) }},
	})
}

// replaceStreams: descriptors 0 to 2 are /dev/null of the host's /dev, opened by
// the agent. Init has no use for them, but the numbers must stay taken.
func replaceStreams() error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", os.DevNull, err)
	}
	defer unix.Close(null)
	for fd := range 3 {
		if err := unix.Dup3(null, fd, 0); err != nil {
			return fmt.Errorf("replace descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// closeFDs keeps what an anchor is for. The root directory is not among that: the
// next agent opens it by itself.
func (in *initProcess) closeFDs() error {
	in.held = slices.DeleteFunc(in.held, func(h heldFile) bool {
		gone := h.name == rootFile || !in.order.Anchored
		if gone {
			_ = unix.Close(h.fd)
		}
		return gone
	})
	if in.order.Anchored {
		_ = unix.Close(controlFD) // nothing more is said there
	}
	return nil
}

// serve reaps and forwards until the agent says nothing more: it never says
// anything, so the end of the socket is the end. With an anchor it goes on until it
// is killed. PID 1's end is the namespace's.
func (in *initProcess) serve() int {
	gone := make(chan struct{})
	if in.order.Anchored {
		go in.answer()
	} else {
		go awaitAgent(gone)
	}
	for {
		reap() // also what ended before the handler was there
		select {
		case <-gone:
			return 0
		case s := <-in.signals:
			if s != unix.SIGCHLD {
				// To all but init itself. ESRCH: there is no one.
				_ = unix.Kill(-1, s.(syscall.Signal))
			}
		}
	}
}

// awaitAgent closes gone at the end of the control socket.
func awaitAgent(gone chan<- struct{}) {
	defer close(gone)
	for {
		var buf [1]byte
		n, _, _, err := recvmsg(controlFD, buf[:], nil)
		if n == 0 || err != nil {
			return
		}
	}
}

// reap takes every child that has ended: the orphans of the sandbox.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 && err != unix.EINTR {
			return
		}
	}
}
