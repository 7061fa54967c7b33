package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/netns"
)

// echoServer runs probe-echo in the sandbox and returns when it listens.
func echoServer(t testing.TB, n *Namespaces, dir, network, address string) {
	t.Helper()
	c := command(dir+"/probe", "probe-echo", network, address)
	r, w := pipe(t)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c.Stdio = [3]*os.File{null, w, w}
	if _, err := n.Exec(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
}

// probeEcho listens and sends back what comes.
func probeEcho(args []string) int {
	l, err := net.Listen(args[0], args[1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	for {
		conn, err := l.Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// dialBox is a sandbox whose loopback is up.
func dialBox(t testing.TB, change ...func(*Config)) (n *Namespaces, dir string) {
	t.Helper()
	dir = probeDir(t)
	n = start(t, append(change, visible(dir), func(c *Config) {
		if err := c.Netns.SetupLoopback(nil, nil); err != nil {
			t.Fatal(err)
		}
	})...)
	return n, dir
}

func dialConfig(network, address string, port uint16) DialConfig {
	return DialConfig{
		UID: testUID, GID: testUID, Network: network, Address: address, Port: port,
		Own:     []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fd52:696e:67fe:1::1")},
		Refused: []uint16{15001, 15053, 15128},
	}
}

// says sends a text and expects it back, with both ends of file.
func says(conn net.Conn, text string) error {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	back, err := io.ReadAll(conn)
	if err == nil && string(back) != text {
		err = fmt.Errorf("%q came back", back)
	}
	return err
}

func TestDialReachesTheSandbox(t *testing.T) {
	n, dir := dialBox(t)
	echoServer(t, n, dir, "tcp", "127.0.0.1:8001")
	echoServer(t, n, dir, "tcp", ":8002")
	if netns.HasIPv6() {
		echoServer(t, n, dir, "tcp", "[::1]:8003")
	}
	echoServer(t, n, dir, "unix", "/tmp/echo socket")
	for _, tt := range []struct {
		network, address string
		port             uint16
		v6               bool
	}{
		{"tcp", "127.0.0.1", 8001, false},
		{"tcp", "localhost", 8001, false},
		{"tcp", "127.9.8.7", 8002, false},
		{"tcp", "198.18.0.1", 8002, false},
		{"tcp", "::ffff:127.0.0.1", 8001, false},
		{"tcp", "::1", 8003, true},
		{"tcp", "localhost", 8003, true},
		{"tcp", "fd52:696e:67fe:1::1", 8003, true},
		{"unix", "/tmp/echo socket", 0, false},
	} {
		if tt.v6 && !netns.HasIPv6() {
			continue
		}
		conn, err := n.Dial(t.Context(), dialConfig(tt.network, tt.address, tt.port))
		if err != nil {
			t.Errorf("%s %s:%d: %v", tt.network, tt.address, tt.port, err)
			continue
		}
		if err := says(conn, strings.Repeat("text ", 50_000)); err != nil {
			t.Errorf("%s %s:%d: %v", tt.network, tt.address, tt.port, err)
		}
	}
}

// A refusal comes before any process is started.
func TestDialRefuses(t *testing.T) {
	n := &Namespaces{closed: true} // whoever asks for a process gets ErrClosed
	long := "/" + strings.Repeat("x", maxSocketPath)
	for _, tt := range []struct {
		network, address string
		port             uint16
	}{
		{"tcp", "192.0.2.1", 80},
		{"tcp", "example.com", 80},
		{"tcp", "localhost.", 80},
		{"tcp", "LOCALHOST", 80},
		{"tcp", "localhost.localdomain", 80},
		{"tcp", "", 80},
		{"tcp", "0.0.0.0", 80},
		{"tcp", "::", 80},
		{"tcp", "0", 80},
		{"tcp", "127.1", 80},
		{"tcp", "0x7f.0.0.1", 80},
		{"tcp", "2130706433", 80},
		{"tcp", "127.0.0.1:80", 80},
		{"tcp", "[::1]", 80},
		{"tcp", "::1%lo", 80},
		{"tcp", "fe80::1%lo", 80},
		{"tcp", "::127.0.0.1", 80},
		{"tcp", "64:ff9b::7f00:1", 80},
		{"tcp", "169.254.169.254", 80},
		{"tcp", "198.18.0.2", 80},
		{"tcp", "10.0.0.1", 80},
		{"tcp", "127.0.0.1\x00", 80},
		{"tcp", "127.0.0.1", 0},
		{"tcp", "127.0.0.1", 53},
		{"tcp", "127.0.0.1", 15001},
		{"tcp", "::1", 15053},
		{"tcp", "localhost", 15128},
		{"tcp", "198.18.0.1", 15128},
		{"tcp4", "127.0.0.1", 80},
		{"udp", "127.0.0.1", 80},
		{"", "127.0.0.1", 80},
		{"unix", "", 0},
		{"unix", "@abstract", 0},
		{"unix", "\x00abstract", 0},
		{"unix", "relative", 0},
		{"unix", "./relative", 0},
		{"unix", "/with\x00zero", 0},
		{"unix", long, 0},
		{"unixgram", "/run/x", 0},
	} {
		config := dialConfig(tt.network, tt.address, tt.port)
		if conn, err := n.Dial(t.Context(), config); !errors.Is(err, ErrNotOwn) {
			t.Errorf("%s %.40q port %d: %v, %v", tt.network, tt.address, tt.port, conn, err)
		}
	}
	for _, own := range []DialConfig{dialConfig("tcp", "127.255.0.1", 65535), dialConfig("unix", long[:maxSocketPath], 0)} {
		if _, err := n.Dial(t.Context(), own); !errors.Is(err, ErrClosed) {
			t.Errorf("%+v: %v", own, err)
		}
	}
	root := dialConfig("tcp", "127.0.0.1", 80)
	root.UID = 0
	if _, err := n.Dial(t.Context(), root); !errors.Is(err, ErrRoot) {
		t.Errorf("root: %v", err)
	}
}

// The helper looks again: what it is told is checked where it counts.
func TestDialerRefuses(t *testing.T) {
	n, dir := dialBox(t)
	echoServer(t, n, dir, "tcp", ":8001")
	d, _, err := n.dialer(t.Context(), ptr(dialConfig("tcp", "127.0.0.1", 8001)))
	if err != nil {
		t.Fatal(err)
	}
	for name, order := range map[string]*dialOrder{
		"address": {Targets: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:80")}},
		"any":     {Targets: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:8001")}},
		"port":    {Targets: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8001")}, Refused: []uint16{8001}},
		"dns":     {Targets: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}},
		"path":    {Path: []byte("@abstract")},
		"nothing": {},
	} {
		var step *StepError
		if _, err := d.dial(t.Context(), order); !errors.As(err, &step) || !strings.Contains(err.Error(), ErrNotOwn.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	conn, err := d.dial(t.Context(), &dialOrder{Targets: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8001")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := says(conn, "still there"); err != nil {
		t.Error(err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestDialErrors(t *testing.T) {
	n, _ := dialBox(t)
	other := ownedDir(t)
	for _, tt := range []struct {
		network, address string
		is               error
	}{
		{"tcp", "127.0.0.1", unix.ECONNREFUSED},
		{"tcp", "localhost", unix.ECONNREFUSED},
		{"unix", "/tmp/no such", unix.ENOENT},
		{"unix", "/etc/passwd", unix.EACCES},
		{"unix", "/dev/null", unix.ECONNREFUSED},
		{"unix", other + "/masked", unix.ENOENT}, // not visible in this sandbox
	} {
		_, err := n.Dial(t.Context(), dialConfig(tt.network, tt.address, 9))
		var step *StepError
		if !errors.As(err, &step) || !errors.Is(err, tt.is) {
			t.Errorf("%s %s: %v", tt.network, tt.address, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Dial(ended, dialConfig("tcp", "127.0.0.1", 9)); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

// A socket file is its owner's to open: the user's rights count, not the agent's.
func TestDialIsTheUser(t *testing.T) {
	dir := ownedDir(t)
	path := dir + "/socket"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n, _ := dialBox(t, visible(dir))
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Dial(t.Context(), dialConfig("unix", path, 0)); !errors.Is(err, unix.EACCES) {
		t.Errorf("root's: %v", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	conn, err := n.Dial(t.Context(), dialConfig("unix", path, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	raw, err := accepted.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || peer.Uid != testUID || peer.Gid != testUID {
			t.Errorf("peer %+v, %v", peer, err)
		}
	})
}

// A dialing process that has ended, for whatever reason, is replaced.
func TestDialStartsAnotherProcess(t *testing.T) {
	n, dir := dialBox(t)
	echoServer(t, n, dir, "tcp", "127.0.0.1:8001")
	config := dialConfig("tcp", "127.0.0.1", 8001)
	for range 3 {
		conn, err := n.Dial(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		if err := says(conn, "x"); err != nil {
			t.Error(err)
		}
		d, old, err := n.dialer(t.Context(), &config)
		if err != nil || !old {
			t.Fatalf("another process: %v", err)
		}
		if err := unix.Kill(d.process.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}

// One that has nothing to do ends, and the next dial is not the one that notices.
func TestDialerEndsWhenIdle(t *testing.T) {
	n, dir := dialBox(t)
	echoServer(t, n, dir, "tcp", "127.0.0.1:8001")
	config := dialConfig("tcp", "127.0.0.1", 8001)
	d, _, err := n.dialer(t.Context(), &config)
	if err != nil {
		t.Fatal(err)
	}
	order, err := config.order()
	if err != nil {
		t.Fatal(err)
	}
	order.Idle = time.Millisecond
	conn, err := d.dial(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	if status := awaitEnd(t, d.process); status.ExitCode() != 0 {
		t.Errorf("%+v", status)
	}
	if err := says(conn, "what it made lives on"); err != nil {
		t.Error(err)
	}
	if conn, err = n.Dial(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if err := says(conn, "another"); err != nil {
		t.Error(err)
	}
}

func TestManyDialsAtOnce(t *testing.T) {
	n, dir := dialBox(t)
	echoServer(t, n, dir, "tcp", "127.0.0.1:8001")
	var all sync.WaitGroup
	for i := range 4 * maxDials {
		all.Go(func() {
			conn, err := n.Dial(t.Context(), dialConfig("tcp", "localhost", 8001))
			if err == nil {
				err = says(conn, fmt.Sprint(i))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestDialLeavesNothing(t *testing.T) {
	n, dir := dialBox(t)
	echoServer(t, n, dir, "tcp", "127.0.0.1:8001")
	round := func() {
		conn, err := n.Dial(t.Context(), dialConfig("tcp", "127.0.0.1", 8001))
		if err != nil {
			t.Fatal(err)
		}
		if err := says(conn, "x"); err != nil {
			t.Error(err)
		}
		if _, err := n.Dial(t.Context(), dialConfig("tcp", "127.0.0.1", 8009)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Error(err)
		}
	}
	round()
	before := measure(t)
	for range 20 {
		round()
	}
	expectUsage(t, before)
}

func BenchmarkDial(b *testing.B) {
	n, dir := dialBox(b)
	echoServer(b, n, dir, "tcp", "127.0.0.1:8001")
	config := dialConfig("tcp", "127.0.0.1", 8001)
	dial := func(b *testing.B) {
		conn, err := n.Dial(b.Context(), config)
		if err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			dial(b)
			b.StopTimer()
			d, _, err := n.dialer(b.Context(), &config)
			if err != nil {
				b.Fatal(err)
			}
			d.process.child.kill()
			b.StartTimer()
		}
	})
	b.Run("next", func(b *testing.B) {
		for b.Loop() {
			dial(b)
		}
	})
}
