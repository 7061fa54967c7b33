package bypass

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Ports of the tests' internet, see internal/testenv.
const (
	portEcho  = 7
	portHTTPS = 443
	portDNS   = 53
)

// Ports of the agent inside a sandbox, see internal/sandbox.
const (
	capturePort = 15001
	dnsPort     = 15053
	proxyPort   = 15128
)

// ioTimeout is how long a socket waits. What is refused says so at once.
const ioTimeout = 20 * time.Second

// payload is what an attempt tries to get out.
const payload = "a byte that must not leave"

// word says what came of a call.
func word(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return ok
	case errors.As(err, &errno):
		return nameOf(errno)
	}
	return "error: " + err.Error()
}

func nameOf(errno unix.Errno) string {
	switch {
	case errno == 0:
		return ok
	case unix.ErrnoName(errno) == "":
		return fmt.Sprint("errno ", int(errno))
	}
	return unix.ErrnoName(errno)
}

// call makes one system call.
func call(nr uintptr, args ...uintptr) string {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return nameOf(errno)
}

// every makes calls that are all to be refused: their word where they agree, else
// what each said.
func every(calls map[string]string) string {
	words := map[string]bool{}
	var all []string
	for what, got := range calls {
		words[got] = true
		all = append(all, what+"="+got)
	}
	if len(words) == 1 {
		for w := range words {
			return w
		}
	}
	return strings.Join(sorted(all), " ")
}

// oneOf folds words that mean the same into one.
func oneOf(got, expected, as string) string {
	for want := range strings.FieldsSeq(expected) {
		if got == want {
			return as
		}
	}
	return got
}

// socket opens a socket whose reads have an end.
func socket(family, kind, protocol int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(ioTimeout.Nanoseconds())
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	return fd, nil
}

// sockaddr is an address in the form of its family, or of IPv6 where mapped.
func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

func familyOf(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// mapped is an IPv4 address in the form of IPv6.
func mapped(addr netip.Addr) netip.Addr { return netip.AddrFrom16(addr.As16()) }

// connect connects by TCP, speaks, and listens.
func connect(to netip.Addr, port uint16) string {
	fd, err := socket(familyOf(to), unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	return connectOn(fd, to, port)
}

func connectOn(fd int, to netip.Addr, port uint16) string {
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(to, port))); err != nil {
		return refusal(err)
	}
	return talk(fd)
}

// refusal says why a connect failed. The reset of a denied connection may come
// before connect returns.
func refusal(err error) string {
	if errors.Is(err, unix.ECONNRESET) {
		return reset
	}
	return word(err)
}

// talk says the payload and waits for an answer, whatever that is.
func talk(fd int) string {
	if _, err := unix.SendmsgN(fd, []byte(payload), nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return heard(0, err)
	}
	return hear(fd)
}

func hear(fd int) string {
	buf := make([]byte, 512)
	for {
		n, err := unix.Read(fd, buf)
		if !errors.Is(err, unix.EINTR) {
			return heard(n, err)
		}
	}
}

func heard(n int, err error) string {
	switch {
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), err == nil && n == 0:
		return reset
	case errors.Is(err, unix.EAGAIN):
		return silent
	case err != nil:
		return word(err)
	}
	return data
}

// lookUp asks the sandbox's DNS.
func lookUp(name, network string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, network, name)
	if err != nil {
		return netip.Addr{}, err
	}
	return addrs[0].Unmap(), nil
}

// connectName connects to a name that the sandbox's DNS knows.
func connectName(name string, port uint16) string {
	addr, err := lookUp(name, "ip4")
	if err != nil {
		return "error: " + err.Error()
	}
	return connect(addr, port)
}

// run starts a program that does one act, and returns what it said.
func (in *intruder) run(program string, args ...string) string {
	return said(exec.Command(program, append([]string{actCommand}, args...)...))
}

func said(cmd *exec.Cmd) string {
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if text := strings.TrimSpace(string(out)); text != "" {
		return text
	}
	if err != nil {
		return word(err)
	}
	return "said nothing"
}

// unwrap returns the errno in an error of the net package, or io.EOF as a close.
func unwrap(err error) error {
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, io.EOF):
		return unix.ECONNRESET
	case errors.Is(err, os.ErrDeadlineExceeded):
		return unix.EAGAIN
	}
	return err
}

// runtimeLock ties this goroutine to its thread, for what is a thread's own. It is
// never given back: the process becomes another program, or ends.
func runtimeLock() { runtime.LockOSThread() }

// readLine returns the first line.
func readLine(r io.Reader) string {
	line, _ := bufio.NewReader(r).ReadString('\n')
	return strings.TrimSpace(line)
}

// socketFor returns a socket for a connection to a host, and the host's address.
func socketFor(host string) (fd int, addr netip.Addr, err error) {
	if addr, err = lookUp(host, "ip4"); err != nil {
		return -1, addr, err
	}
	fd, err = socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	return fd, addr, err
}
