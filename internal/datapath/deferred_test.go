package datapath

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A connect of TCP Fast Open sends nothing until there is data, and by then the
// program that asked for it may be gone. Nobody is to be blamed for the
// connection then, least of all who used the same port before.
func TestDeferredConnectHasNoOrigin(t *testing.T) {
	const from = "127.0.0.1:40000"
	f := newFixture(t, self(t), "probe", "reset="+from+","+dest, "deferred="+from+","+dest)
	before := f.stats()
	f.start()
	for i, name := range []string{"never taken", "deferred"} {
		_ = f.capture4.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		conn, err := f.capture4.Accept()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer conn.Close()
		remote := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		if remote.String() != from {
			t.Fatalf("%s: from %v", name, remote)
		}
		if i == 0 {
			continue
		}
		if origin, err := f.dp.Origins(f.cookie).Take(remote); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: origin %+v, %v", name, origin, err)
		}
	}
	if got := f.results(); got[0] != "connected" || got[1] != "sent" {
		t.Errorf("program: %v", got)
	}
	if got := f.stats(); got.Origins != before.Origins || got.Execs != before.Execs {
		t.Errorf("left behind: %+v", got)
	}
}

// fromTo returns a socket bound to SRC, and the address of "SRC,DST".
func fromTo(arg string) (int, unix.Sockaddr) {
	from, to, _ := strings.Cut(arg, ",")
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	must(err)
	must(unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	must(unix.Bind(s, sockaddr(netip.MustParseAddrPort(from), false)))
	return s, sockaddr(netip.MustParseAddrPort(to), false)
}

// probeReset connects from SRC to DST, and resets that at once.
func probeReset(arg string) string {
	s, to := fromTo(arg)
	must(unix.Connect(s, to))
	must(unix.SetsockoptLinger(s, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	must(unix.Close(s))
	return "connected"
}

// probeDeferred has another program connect its socket, and sends when that one
// has ended.
func probeDeferred(arg string) string {
	s, _ := fromTo(arg)
	_, to, _ := strings.Cut(arg, ",")
	socket := os.NewFile(uintptr(s), "socket")
	defer socket.Close()
	child := exec.Command("/proc/self/exe", "probe", "defer="+to)
	child.ExtraFiles = []*os.File{socket}
	out, err := child.CombinedOutput()
	if err != nil || string(out) != "deferred\n" {
		return "child: " + string(out)
	}
	if _, err := unix.Write(s, []byte("x")); err != nil {
		return err.Error()
	}
	return "sent"
}

// probeDefer connects descriptor 3 to DST, at the time of its first data.
func probeDefer(to string) string {
	must(unix.SetsockoptInt(3, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1))
	must(unix.SetsockoptInt(3, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1))
	must(unix.Connect(3, sockaddr(netip.MustParseAddrPort(to), false)))
	return "deferred"
}
