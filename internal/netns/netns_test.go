package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func make1(t testing.TB) *Handle {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skip: root is needed to make network namespaces")
	}
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var (
	loAddrs  = prefixes("198.18.0.1/32", "fd52:696e:67fe:1::1/128")
	loRoutes = prefixes("fd52:696e:67fe:2::/64")
)

func TestNewIsApart(t *testing.T) {
	home, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	a, b := make1(t), make1(t)
	if a.Inode() == b.Inode() || a.Inode() == home.Inode() {
		t.Errorf("inodes %d, %d, home %d", a.Inode(), b.Inode(), home.Inode())
	}
	aCookie, aErr := a.Cookie()
	bCookie, bErr := b.Cookie()
	if err := errors.Join(aErr, bErr); err != nil || aCookie == bCookie || aCookie == 0 {
		t.Errorf("cookies %d, %d, %v", aCookie, bCookie, err)
	}
	var inside uint64
	if err := a.Do(func() error {
		h, err := Current()
		if err != nil {
			return err
		}
		defer h.Close()
		inside = h.Inode()
		return nil
	}); err != nil || inside != a.Inode() {
		t.Errorf("inside %d, want %d, %v", inside, a.Inode(), err)
	}
	again, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Inode() != home.Inode() {
		t.Error("not home again")
	}
}

func TestDoReturnsErrorAndSurvivesGoexit(t *testing.T) {
	h := make1(t)
	want := errors.New("x")
	if err := h.Do(func() error { return want }); err != want {
		t.Errorf("error %v", err)
	}
	if err := h.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Goexit is no error")
	}
}

func TestOpenRefusesOtherFiles(t *testing.T) {
	for _, path := range []string{"/etc/passwd", "/proc/self/ns/mnt", "/"} {
		if h, err := Open(path); !errors.Is(err, ErrNotNetns) {
			t.Errorf("%s: %v, %v", path, h, err)
		}
	}
}

func TestSetupLoopback(t *testing.T) {
	h := make1(t)
	for range 2 { // it may be repeated
		if err := h.SetupLoopback(loAddrs, loRoutes); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := h.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil || len(links) != 1 {
			t.Errorf("links %v, %v", links, err)
		}
		addrs, err := netlink.AddrList(links[0], netlink.FAMILY_ALL)
		for _, a := range addrs {
			got = append(got, a.IPNet.String())
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				t.Errorf("%v is tentative", a)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := []string{"127.0.0.1/8", "198.18.0.1/32", "::1/128", "fd52:696e:67fe:1::1/128"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

// What is sent to an address of a local route arrives, and the answer leaves from
// that address.
func TestUDPAnswersFromAnyLocalAddress(t *testing.T) {
	h := make1(t)
	if err := h.SetupLoopback(loAddrs, loRoutes); err != nil {
		t.Fatal(err)
	}
	server, err := h.ListenUDP(netip.MustParseAddrPort("[::]:5300"))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	asked := netip.MustParseAddrPort("[fd52:696e:67fe:2::99]:5300")
	var client *net.UDPConn
	if err := h.Do(func() (err error) {
		client, err = net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(asked))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	deadline := time.Now().Add(5 * time.Second)
	_ = errors.Join(client.SetDeadline(deadline), server.SetDeadline(deadline))
	if _, err := client.Write([]byte("ask")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	_, from, err := server.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	info := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: asked.Addr().As16()})
	if _, _, err := server.WriteMsgUDPAddrPort([]byte("answer"), info, from); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "answer" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func TestListenersAreInside(t *testing.T) {
	h := make1(t)
	if err := h.SetupLoopback(loAddrs, nil); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"} {
		l, err := h.ListenTCP(netip.MustParseAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		target := "127.0.0.1"
		if strings.HasPrefix(addr, "[") {
			target = "::1"
		}
		dial := func() error {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr(target), port).String(), time.Second)
			if err == nil {
				c.Close()
			}
			return err
		}
		if err := h.Do(dial); err != nil {
			t.Errorf("%s from inside: %v", addr, err)
		}
		raw, err := l.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			if proto, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || proto != unix.IPPROTO_TCP {
				t.Errorf("%s: protocol %d, %v", addr, proto, err)
			}
		})
	}
	// An IPv6 listener leaves IPv4 alone.
	l6, err := h.ListenTCP(netip.MustParseAddrPort("[::]:4444"))
	if err != nil {
		t.Fatal(err)
	}
	defer l6.Close()
	l4, err := h.ListenTCP(netip.MustParseAddrPort("0.0.0.0:4444"))
	if err != nil {
		t.Fatalf("beside it: %v", err)
	}
	l4.Close()
}

func TestReservePorts(t *testing.T) {
	h := make1(t)
	for _, ports := range [][]uint16{{40001}, {40002, 40003}} {
		if err := h.ReservePorts(ports...); err != nil {
			t.Fatal(err)
		}
	}
	var text []byte
	if err := h.Do(func() (err error) {
		text, err = os.ReadFile(reservedPorts)
		return err
	}); err != nil || strings.TrimSpace(string(text)) != "40001-40003" {
		t.Errorf("reserved: %q, %v", text, err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	cycle := func() {
		h := make1(t)
		if err := h.SetupLoopback(loAddrs, loRoutes); err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	count := func() [2]int {
		fds, _ := os.ReadDir("/proc/self/fd")
		return [2]int{len(fds), runtime.NumGoroutine()}
	}
	cycle()
	before := count()
	for range 50 {
		cycle()
	}
	after := count()
	for range 100 { // a goroutine that has done its work may not have ended
		if after[0] <= before[0] && after[1] <= before[1] {
			return
		}
		time.Sleep(10 * time.Millisecond)
		after = count()
	}
	t.Errorf("descriptors and goroutines: %v, %v before", after, before)
}

func BenchmarkNamespace(b *testing.B) {
	for b.Loop() {
		h := make1(b)
		if err := h.SetupLoopback(loAddrs, loRoutes); err != nil {
			b.Fatal(err)
		}
		h.Close()
	}
}
