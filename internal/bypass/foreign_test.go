package bypass

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Where the test itself has connections open before the sandbox starts.
const (
	presetStdin  = "198.51.100.240"
	presetExtra  = "198.51.100.241"
	presetPassed = "198.51.100.242"
)

// foreignGroup: sockets that were not made in the sandbox (row 7). The sandbox is
// started with some as its standard streams and above, and with a directory and
// a network namespace.
func foreignGroup() group {
	return group{name: "foreign", runner: client, stage: giveForeign, attempts: func() []attempt {
		return []attempt{
			{row: 7, name: "standard_streams", want: "none", try: func(*intruder) string { return foreignIn(0, 2) }},
			{row: 7, name: "further_descriptors", want: "none", try: func(*intruder) string { return foreignIn(3, 255) }},
			{row: 7, name: "of_init", want: "EACCES EPERM", try: func(*intruder) string {
				_, err := os.ReadDir("/proc/1/fd")
				return word(err)
			}},
			{row: 7, name: "pidfd_getfd", want: "EPERM", try: func(*intruder) string {
				pidfd, err := unix.PidfdOpen(1, 0)
				if err != nil {
					return word(err)
				}
				defer unix.Close(pidfd)
				return call(unix.SYS_PIDFD_GETFD, uintptr(pidfd), 0, 0)
			}},
			{row: 7, name: "launcher_socket", want: "none", try: func(*intruder) string { return foreignIn(3, 1023) }},
			{row: 7, name: "passed_in", want: "ENOENT ECONNREFUSED EACCES EPERM", try: takePassed,
				accepted: "what a process outside passes in over a socket in the working directory (threat model)"},
		}
	}}
}

// giveForeign opens in the host's network namespace what the sandbox must not get.
func giveForeign(s *stage) error {
	stdin, err := s.presetSocket(presetStdin)
	if err != nil {
		return err
	}
	extra, err := s.presetSocket(presetExtra)
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	inner, outer := os.NewFile(uintptr(pair[0]), "inner"), os.NewFile(uintptr(pair[1]), "outer")
	directory, err := os.Open("/")
	if err != nil {
		return err
	}
	namespace, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = stdin, inner, inner
	s.cmd.ExtraFiles = []*os.File{extra, directory, namespace}
	s.stdout, s.given = outer, []*os.File{inner}
	for _, f := range []*os.File{stdin, extra, outer, directory, namespace} {
		s.atEnd(f.Close)
	}
	return s.openDoor()
}

// presetSocket returns a connection of the host's to the echo service of addr.
func (s *stage) presetSocket(addr string) (*os.File, error) {
	to := netip.AddrPortFrom(netip.MustParseAddr(addr), portEcho)
	s.preset[to.Addr()] = true
	var fd int
	err := s.env.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Connect(fd, sockaddr(to))
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", to, err)
	}
	return os.NewFile(uintptr(fd), addr), nil
}

// openDoor listens in the working directory, and passes a connection to whoever
// comes.
func (s *stage) openDoor() error {
	passed, err := s.presetSocket(presetPassed)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, "door")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), os.Chmod(path, 0o777), unix.Listen(fd, 1))
	rights := unix.UnixRights(int(passed.Fd()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, _, err := unix.Accept(fd); err == nil {
			_ = unix.Sendmsg(conn, []byte("x"), rights, nil, 0)
			_ = unix.Close(conn)
		}
	}()
	s.atEnd(func() error {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ends the accept
		<-done
		return errors.Join(passed.Close(), unix.Close(fd))
	})
	return err
}

// foreignIn says which descriptors from first to last are sockets, directories or
// namespaces that the attacker did not open itself, and tries to use them.
func foreignIn(first, last int) string {
	var found []string
	for fd := first; fd <= last; fd++ {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			continue
		}
		link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK:
			// The runtime of this program opens none by itself.
			if _, err := unix.SendmsgN(fd, []byte(payload), nil, nil, unix.MSG_NOSIGNAL); err == nil {
				link += " (sent)"
			}
			found = append(found, fmt.Sprintf("%d: %s", fd, link))
		case unix.S_IFDIR:
			found = append(found, fmt.Sprintf("%d: %s", fd, link))
		case unix.S_IFREG:
			if fd < 3 || link == "net:["+strconv.FormatUint(st.Ino, 10)+"]" {
				found = append(found, fmt.Sprintf("%d: %s", fd, link))
			}
		}
	}
	return listOr(found, "none")
}

// takePassed asks the socket in the working directory for a connection of the
// host's.
func takePassed(in *intruder) string {
	fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(in.dir, "door")}); err != nil {
		return word(err)
	}
	buf, control := make([]byte, 1), make([]byte, 64)
	_, n, _, _, err := unix.Recvmsg(fd, buf, control, 0)
	if err != nil {
		return word(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return "no descriptor came"
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return word(err)
	}
	defer unix.Close(fds[0])
	// It is past the fence. Nothing is sent, for the far end is to stay clean.
	limit := unix.NsecToTimeval(time.Second.Nanoseconds())
	_ = unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	peer, err := unix.Getpeername(fds[0])
	if err != nil {
		return word(err)
	}
	if p, is := peer.(*unix.SockaddrInet4); is {
		return "OPEN to " + netip.AddrFrom4(p.Addr).String()
	}
	return "OPEN"
}
