package launch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A dialing process that was made to answer as it likes gets nothing taken but a stream
// to what was asked for, and no descriptor of it stays open.
func TestHostileDialer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := netip.MustParseAddrPort(l.Addr().String())
	other := netip.AddrPortFrom(asked.Addr(), 9)
	tcp := func() int { return rawSocket(t, asked) }
	tests := []struct {
		name   string
		target netip.AddrPort
		path   string
		send   func() []int
		taken  bool
	}{
		{"what was asked for", asked, "", func() []int { return []int{tcp()} }, true},
		{"another port", other, "", func() []int { return []int{tcp()} }, false},
		{"a connection for a path", netip.AddrPort{}, "/run/x", func() []int { return []int{tcp()} }, false},
		{"none", asked, "", func() []int { return nil }, false},
		{"two", asked, "", func() []int { return []int{tcp(), tcp()} }, false},
		{"a file", asked, "", func() []int { return []int{openFD(t, os.DevNull)} }, false},
		{"a directory for a path", netip.AddrPort{}, "/run/x", func() []int { return []int{openFD(t, "/")} }, false},
		{"no connection", asked, "", func() []int { return []int{socketFD(t, unix.AF_INET, unix.SOCK_STREAM)} }, false},
		{"a datagram socket", asked, "", func() []int {
			fd := socketFD(t, unix.AF_INET, unix.SOCK_DGRAM)
			if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: asked.Addr().As4(), Port: int(asked.Port())}); err != nil {
				t.Fatal(err)
			}
			return []int{fd}
		}, false},
		{"a pair for a path", netip.AddrPort{}, "/run/x", func() []int { return pairFDs(t, unix.SOCK_STREAM)[:1] }, true},
		{"a pair of packets for a path", netip.AddrPort{}, "/run/x", func() []int { return pairFDs(t, unix.SOCK_SEQPACKET)[:1] }, false},
		{"a pair for a port", asked, "", func() []int { return pairFDs(t, unix.SOCK_STREAM)[:1] }, false},
	}
	var before int
	for _, tt := range append(tests[:1:1], tests...) { // once first, so that what stays is there
		t.Run(tt.name, func(t *testing.T) {
			conn, theirs, err := socketPair()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				answerOnce(theirs, tt.send)
			}()
			order := &dialOrder{Path: []byte(tt.path)}
			if tt.path == "" {
				order.Targets = []netip.AddrPort{tt.target}
			}
			d := &dialer{conn: conn, room: make(chan struct{}, 1)}
			got, err := d.dial(t.Context(), order)
			<-done
			if (err == nil) != tt.taken || (got == nil) == (err == nil) {
				t.Errorf("%v, %v", got, err)
			}
			if got != nil {
				_ = got.Close()
			}
		})
		for i := 0; ; i++ {
			fds, err := os.ReadDir("/proc/self/fd")
			if err != nil {
				t.Fatal(err)
			}
			if before == 0 {
				before = len(fds)
			}
			if len(fds) <= before {
				break
			}
			if i == 100 {
				t.Fatalf("after %s %d descriptors are open, %d before", tt.name, len(fds), before)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// answerOnce is a helper of its own will: it reads one order, and answers with what
// it is given.
func answerOnce(socket *os.File, send func() []int) {
	defer socket.Close()
	var buf [1]byte
	room := make([]byte, unix.CmsgSpace(4*maxRights))
	_, oobn, _, err := recvmsg(int(socket.Fd()), buf[:], room)
	if err != nil {
		return
	}
	fds, err := rights(room[:oobn])
	if err != nil || len(fds) != 2 {
		return
	}
	answers := send()
	_ = sendReplyOn(fds[1], reply{}, answers...)
	for _, fd := range append(fds, answers...) {
		_ = unix.Close(fd)
	}
}

func openFD(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func socketFD(t *testing.T, family, kind int) int {
	t.Helper()
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func rawSocket(t *testing.T, to netip.AddrPort) int {
	t.Helper()
	fd := socketFD(t, unix.AF_INET, unix.SOCK_STREAM)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// pairFDs returns a pair of which the second is closed at once.
func pairFDs(t *testing.T, kind int) []int {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fds[1])
	return fds[:]
}

// An answer that never comes ends with the context, and one that is closed is another
// process's turn.
func TestSilentDialer(t *testing.T) {
	conn, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	d := &dialer{conn: conn, room: make(chan struct{}, 1)}
	order := &dialOrder{Targets: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := d.dial(ctx, order); err == nil || errors.Is(err, errDialerEnded) {
		t.Errorf("silent: %v", err)
	}
	_ = theirs.Close()
	if _, err := d.dial(t.Context(), order); !errors.Is(err, errDialerEnded) {
		t.Errorf("closed: %v", err)
	}
}
