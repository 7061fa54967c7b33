package launch

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner owns the one thread from which a sandbox's processes are started.
//
// That thread is in the sandbox's network namespace, and from its first child on,
// which is init, in init's ipc, uts and (for what it forks) pid namespaces; so a
// command's process starts inside, and need not enter. It is then in a domain of
// Landlock too, so that all commands are in the same one (restrictScopes): where
// the sandbox ends with this agent, for a later one could not join that domain.
//
// It must outlive every child: the kernel sends Pdeathsig when the parent
// *thread* ends. So it ends only in stop, after the children, or with the agent,
// which is the one death that the signal is for. Nothing else runs on it, and it
// is thrown away at its end, because it cannot go home.
type spawner struct {
	requests chan spawnRequest
	quit     chan struct{}
	done     chan struct{}
}

type spawnRequest struct {
	command string
	attr    *os.ProcAttr
	join    bool // enter the new namespaces of the child
	scoped  bool // and restrict scopes
	result  chan<- spawnResult
}

type spawnResult struct {
	process *os.Process
	err     error
}

// initNamespaces are those that init is cloned into.
const initNamespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// newSpawner starts the thread and has it enter the network namespace, and what
// else there is to enter.
func newSpawner(enter ...func() error) (*spawner, error) {
	s := &spawner{requests: make(chan spawnRequest), quit: make(chan struct{}), done: make(chan struct{})}
	entered := make(chan error)
	go s.run(enter, entered)
	if err := <-entered; err != nil {
		<-s.done
		return nil, err
	}
	return s, nil
}

func (s *spawner) run(enter []func() error, entered chan<- error) {
	runtime.LockOSThread() // and never unlocked
	if unix.Gettid() == unix.Getpid() {
		// The runtime cannot end the main thread. Hold it until the next goroutine
		// has found another.
		go s.run(enter, entered)
		<-s.done
		runtime.UnlockOSThread()
		return
	}
	defer close(s.done)
	var err error
	for _, step := range enter {
		if err = step(); err != nil {
			break
		}
	}
	entered <- err
	if err != nil {
		return
	}
	for {
		select {
		case r := <-s.requests:
			p, err := spawn(r)
			r.result <- spawnResult{p, err}
		case <-s.quit:
			return
		}
	}
}

// spawn starts a process from the calling thread, and joins it where asked.
//
// Joining is by pidfd, before the child has its order: later it is not dumpable,
// and only CAP_SYS_PTRACE would let the agent in. (To unshare the pid namespace
// first, and fork init into it, does not work: the os package may fork a child of
// its own to probe the kernel, which would be PID 1.)
func spawn(r spawnRequest) (*os.Process, error) {
	pidfd := -1
	if r.join {
		r.attr.Sys.PidFD = &pidfd
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"ringfence", r.command}, r.attr)
	if err != nil || !r.join {
		return p, err
	}
	defer unix.Close(pidfd)
	// Not the mount namespace: what this thread starts sees the host's files until
	// it enters by itself.
	err = unix.Setns(pidfd, initNamespaces&^unix.CLONE_NEWNS)
	if err != nil {
		err = fmt.Errorf("join namespaces (Linux 5.8 or newer): %w", err)
	} else if r.scoped {
		err = restrictScopes()
	}
	if err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, err
	}
	return p, nil
}

// startInit starts init in new namespaces, and joins them.
func (s *spawner) startInit(cgroup *os.File, scoped bool) (*child, error) {
	return s.start(initCommand, cgroup, initNamespaces, scoped)
}

// startExec starts a process that waits for a command.
func (s *spawner) startExec(cgroup *os.File) (*child, error) {
	return s.start(execCommand, cgroup, 0, false)
}

// start starts a hidden subcommand in the cgroup, with the other end of the
// returned connection as its control socket.
func (s *spawner) start(command string, cgroup *os.File, cloneFlags uintptr, scoped bool) (*child, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	devNull, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	defer devNull.Close()
	attr := &os.ProcAttr{
		Dir: "/",
		Env: []string{}, // the agent's environment is its own: nothing of it may get near a sandbox
		// Until a command has its own streams, nothing that it writes goes anywhere.
		Files: []*os.File{devNull, devNull, devNull, theirs},
		// Pdeathsig is armed by the child itself: SysProcAttr's would take the parent
		// that it cannot see from inside the pid namespace for a dead one.
		Sys: &syscall.SysProcAttr{
			Setsid:      true,
			UseCgroupFD: true,
			CgroupFD:    int(cgroup.Fd()),
			Cloneflags:  cloneFlags,
		},
	}
	result := make(chan spawnResult)
	select {
	case s.requests <- spawnRequest{command, attr, cloneFlags != 0, scoped, result}:
	case <-s.done:
		_ = conn.Close()
		return nil, ErrClosed
	}
	r := <-result
	if r.err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("start %s: %w", command, r.err)
	}
	return newChild(conn, r.process), nil
}

// stop ends the thread. The children must have ended before.
func (s *spawner) stop() {
	close(s.quit)
	<-s.done
}

// child is a process that was started, and the agent's end of its socket.
type child struct {
	conn    *net.UnixConn
	process *os.Process
	ended   chan struct{} // closed when the process was waited for
	state   *os.ProcessState
	err     error
}

func newChild(conn *net.UnixConn, p *os.Process) *child {
	c := &child{conn: conn, process: p, ended: make(chan struct{})}
	go c.wait()
	return c
}

// wait is the goroutine that reaps the child; c.state and c.err are its own until
// it closes c.ended.
func (c *child) wait() {
	c.state, c.err = c.process.Wait()
	close(c.ended)
}

// kill ends the child and waits for that.
func (c *child) kill() {
	_ = c.conn.Close()
	_ = c.process.Kill()
	<-c.ended
}

func (c *child) pid() int { return c.process.Pid }

func (c *child) done() <-chan struct{} { return c.ended }

// leave lets go of the child, which runs on.
func (c *child) leave() { _ = c.conn.Close() }
