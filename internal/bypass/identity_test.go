package bypass

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// identityGroup: looking like the program that policy allows (rows 21, 26, 27 and
// 34). A stranger makes the attempts: what the allowed program starts counts as it.
func identityGroup() group {
	return group{name: "identity", runner: stranger, stage: linkedPrograms, attempts: func() []attempt {
		return append(append(nameAttempts(), shownAttempts()...), sharedAttempts()...)
	}}
}

// linkedPrograms puts other names of client into the working directory.
func linkedPrograms(s *stage) error {
	return errors.Join(
		os.Link(filepath.Join(s.dir, client), filepath.Join(s.dir, "hardlink")),
		s.program("hostile\x1b[31m\n\u202ename", 0o755),
	)
}

// by is the record of a program that no policy names.
func by(program string) told { t := denied("wrong_binary"); t.by = program; return t }

// nameAttempts give the stranger another name, or the client a second one.
func nameAttempts() []attempt {
	// start makes a file and runs it.
	start := func(make func(in *intruder) (path string, err error)) func(*intruder) string {
		return func(in *intruder) string {
			path, err := make(in)
			if err != nil {
				return "prepare: " + word(err)
			}
			return in.run(path, "connect", in.open, "7")
		}
	}
	return []attempt{
		{row: 21, name: "copied", want: reset, told: by("/tmp/copied"), try: start(func(in *intruder) (string, error) {
			return "/tmp/copied", copyProgram(in.client(), "/tmp/copied", 0o755)
		})},
		{row: 21, name: "renamed_copy", want: reset, told: by("own/client"), try: start(func(in *intruder) (string, error) {
			path := filepath.Join(in.own, "client")
			return path, errors.Join(copyProgram(in.client(), path+".new", 0o755), os.Rename(path+".new", path))
		})},
		{row: 21, name: "hard_link", want: reset, told: by("hardlink"), try: start(func(in *intruder) (string, error) {
			return filepath.Join(in.dir, "hardlink"), nil
		})},
		{row: 21, name: "own_hard_link", want: "EPERM EACCES EXDEV", try: func(in *intruder) string {
			return word(unix.Link(in.client(), filepath.Join(in.own, "hardlink")))
		}},
		{row: 21, name: "symlink", want: reset, told: by(stranger), try: start(func(in *intruder) (string, error) {
			path := filepath.Join(in.own, "sub", client)
			return path, errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.Symlink(in.stranger(), path))
		})},
		{row: 21, name: "proc_self_exe", want: reset, told: by(stranger), try: start(func(*intruder) (string, error) {
			return "/proc/self/exe", nil
		})},
		{row: 21, name: "proc_self_root", want: reset, told: by(stranger), try: start(func(in *intruder) (string, error) {
			return "/proc/self/root" + in.stranger(), nil
		})},
		{row: 21, name: "proc_self_cwd", want: reset, told: by(stranger), try: start(func(*intruder) (string, error) {
			return "/proc/self/cwd/own/../" + stranger, nil
		})},
		{row: 21, name: "relative", want: reset, told: by(stranger), try: func(in *intruder) string {
			cmd := exec.Command("./../"+stranger, actCommand, "connect", in.open, "7")
			cmd.Dir = in.own
			return said(cmd)
		}},
		{row: 21, name: "fexecve", want: reset, told: by(stranger), try: func(in *intruder) string {
			return in.run(in.stranger(), "fexec", in.stranger(), in.client(), in.open)
		}},
		{row: 21, name: "script", want: reset, told: by(stranger), try: start(func(in *intruder) (string, error) {
			return "/tmp/client-script", os.WriteFile("/tmp/client-script", []byte("#!"+in.stranger()+" act\n"), 0o755)
		})},
		{row: 21, name: "no_exec_right", want: "EACCES", try: func(in *intruder) string {
			path := filepath.Join(in.own, "no-exec")
			if err := copyProgram(in.stranger(), path, 0o644); err != nil {
				return word(err)
			}
			return in.run(path, "connect", in.open, "7")
		}},
	}
}

// shownAttempts change what others see of a process.
func shownAttempts() []attempt {
	return []attempt{
		{row: 27, name: "argv0", want: reset, told: by(stranger), try: func(in *intruder) string {
			return said(&exec.Cmd{Path: in.stranger(), Args: []string{in.client(), actCommand, "connect", in.open, "7"}})
		}},
		{row: 27, name: "no_argv0", want: reset, told: by(stranger), try: func(in *intruder) string {
			return said(&exec.Cmd{Path: in.stranger(), Args: []string{"", actCommand, "connect", in.open, "7"}})
		}},
		{row: 27, name: "comm", want: reset, told: by(stranger), try: func(in *intruder) string {
			return in.run(in.stranger(), "comm", client, in.open)
		}},
		{row: 27, name: "exe_link", want: "EPERM EINVAL", try: func(in *intruder) string {
			fd, err := unix.Open(in.client(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return word(err)
			}
			defer unix.Close(fd)
			return word(unix.Prctl(unix.PR_SET_MM, unix.PR_SET_MM_EXE_FILE, uintptr(fd), 0, 0))
		}},
		{row: 37, name: "hostile_path", want: reset, told: told{reason: "wrong_binary"}, try: func(in *intruder) string {
			return in.run(filepath.Join(in.dir, "hostile\x1b[31m\n\u202ename"), "connect", in.open, "7")
		}},
	}
}

// sharedAttempts share a socket between programs: its identity is that of who
// connected it.
func sharedAttempts() []attempt {
	clients := told{reason: "allowed", verdict: "allow", mode: "transparent", by: client}
	return []attempt{
		{row: 26, name: "connect_then_exec", want: reset, told: by(stranger), try: func(in *intruder) string {
			return in.run(in.stranger(), "connect-exec", in.open, in.client(), "use")
		}},
		{row: 26, name: "connect_then_exec_at_once", want: reset, told: by(stranger), try: func(in *intruder) string {
			return in.run(in.stranger(), "start-exec", in.open, in.client(), "use")
		}},
		{row: 26, name: "connected_by_parent", want: reset, told: by(stranger), try: func(in *intruder) string {
			return shareWith(in, in.client())
		}},
		{row: 26, name: "fork_then_connect", want: reset, told: by(stranger), try: func(in *intruder) string {
			return in.run(in.stranger(), "forked", in.open)
		}},
		// What policy allowed stays what it allowed: the record names the client.
		{row: 26, name: "exec_after_allowed_connect", want: data, told: clients, try: func(in *intruder) string {
			return in.run(in.client(), "connect-exec", in.open, in.stranger(), "use")
		}},
		{row: 34, name: "client_connects_for_stranger", want: data, told: clients, try: borrow},
	}
}

// fexec runs a file by its descriptor, with another program's name as argv[0].
func fexec(a []string) string {
	fd, err := unix.Open(a[0], unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return word(err)
	}
	return execFD(fd, a[1], actCommand, "connect", a[2], "7")
}

// execFD becomes the program that a descriptor is.
func execFD(fd int, argv ...string) string {
	pointers, err := unixPointers(argv)
	if err != nil {
		return word(err)
	}
	empty := [1]byte{}
	environ := [1]uintptr{}
	return "exec: " + call(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(&pointers[0])), uintptr(unsafe.Pointer(&environ)), unix.AT_EMPTY_PATH)
}

func unixPointers(argv []string) ([]*byte, error) {
	var all []*byte
	for _, text := range argv {
		p, err := unix.BytePtrFromString(text)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return append(all, nil), nil
}

// comm takes another name for this thread, and connects from it.
func comm(a []string) string {
	runtimeLock()
	name, err := unix.BytePtrFromString(a[0])
	if err != nil {
		return word(err)
	}
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0); err != nil {
		return word(err)
	}
	return connectName(a[1], portEcho)
}

// connectExec connects, and then becomes another program, which uses the socket.
func connectExec(a []string) string {
	return becomeWith(a, 0)
}

// startExec becomes it without waiting for the connection to stand.
func startExec(a []string) string {
	return becomeWith(a, unix.SOCK_NONBLOCK)
}

func becomeWith(a []string, flags int) string {
	addr, err := lookUp(a[0], "ip4")
	if err != nil {
		return word(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|flags, 0) // stays open at exec
	if err != nil {
		return word(err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: portEcho, Addr: addr.As4()})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return refusal(err)
	}
	runtimeLock()
	return "exec: " + word(unix.Exec(a[1], []string{a[1], actCommand, a[2], fmt.Sprint(fd)}, nil))
}

// use talks on a descriptor that it was given.
func use(a []string) string {
	fd := int(portOf(a[0]))
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if _, err := unix.Poll(poll, int(ioTimeout.Milliseconds())); err != nil {
		return word(err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return word(err)
	}
	return talk(fd)
}

// shareWith starts a program that shares a socket, and connects it for that.
func shareWith(in *intruder, program string) string {
	addr, err := lookUp(in.open, "ip4")
	if err != nil {
		return word(err)
	}
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	file := os.NewFile(uintptr(fd), "shared")
	defer file.Close()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: portEcho, Addr: addr.As4()}); err != nil {
		return refusal(err)
	}
	cmd := exec.Command(program, actCommand, "use", "3")
	cmd.ExtraFiles = []*os.File{file}
	return said(cmd)
}

// borrow has the client connect a socket of the stranger's, which then uses it.
func borrow(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	file := os.NewFile(uintptr(fd), "borrowed")
	defer file.Close()
	cmd := exec.Command(in.client(), actCommand, "connect-given", in.open, "3")
	cmd.ExtraFiles = []*os.File{file}
	if got := said(cmd); got != ok {
		return got
	}
	return talk(fd)
}

func connectGiven(a []string) string {
	addr, err := lookUp(a[0], "ip4")
	if err != nil {
		return word(err)
	}
	return word(unix.Connect(int(portOf(a[1])), &unix.SockaddrInet4{Port: portEcho, Addr: addr.As4()}))
}

// forked connects from a child that is a fork and nothing more: no exec, one
// thread, gone at once.
func forked(a []string) string {
	fd, addr, err := socketFor(a[0])
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	pid, err := forkConnect(fd, addr.As4())
	if err != nil {
		return word(err)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		return word(err)
	}
	return talk(fd)
}

// forkConnect forks a child that connects and ends. The child may do system calls
// and nothing else: of Go's runtime it has one thread.
func forkConnect(fd int, addr [4]byte) (int, error) {
	to := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: portEcho << 8, Addr: addr}
	name, size := uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to)
	runtimeLock()
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	if pid == 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), name, size)
		for {
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return int(pid), nil
}

// scriptAct is what happens where a script names this program as its interpreter:
// the script's own path comes before the arguments.
func scriptAct(name string, args []string) (string, bool) {
	if !strings.HasPrefix(name, "/") || len(args) < 3 {
		return "", false
	}
	return act(args[1], args[2:]), true
}
