package datapath

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ringfence/ringfence/internal/flow"
)

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCapture(t *testing.T) {
	tests := []struct {
		name, step string
		listener   func(*fixture) net.Listener
		asked      string
		peer       string
	}{
		{"IPv4", "tcp=203.0.113.7:443", func(f *fixture) net.Listener { return f.capture4 }, "203.0.113.7:443", "203.0.113.7:443"},
		{"IPv6", "tcp=[2001:db8::7]:22", func(f *fixture) net.Listener { return f.capture6 }, "[2001:db8::7]:22", "[2001:db8::7]:22"},
		{"v4-mapped", "mapped=203.0.113.7:443", func(f *fixture) net.Listener { return f.capture4 }, "203.0.113.7:443", "[::ffff:203.0.113.7]:443"},
		{"metadata", "tcp=169.254.169.254:80", func(f *fixture) net.Listener { return f.capture4 }, "169.254.169.254:80", "169.254.169.254:80"},
		{"explicit proxy", "tcp=127.0.0.1:15128", func(f *fixture) net.Listener { return f.proxy4 }, "127.0.0.1:15128", "127.0.0.1:15128"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, self(t), "probe", tt.step)
			f.start()
			e, asked := f.take(tt.listener(f))
			if asked.String() != tt.asked {
				t.Errorf("asked for %v, want %v", asked, tt.asked)
			}
			if e.Path != self(t) || taints(e) != 0 || len(e.Ancestors) != 0 {
				t.Errorf("exec = %+v, want path %s, no taints, no ancestors", e, self(t))
			}
			if got, want := f.results(), []string{"peer " + tt.peer}; !cmp.Equal(got, want) {
				t.Error(cmp.Diff(want, got))
			}
		})
	}
}

func TestOwnLoopbackPasses(t *testing.T) {
	f := newFixture(t, self(t), "probe", "tcp=127.0.0.1:9", "tcp=0.0.0.0:9", "tcp=[::1]:9", "tcp=[::]:9",
		"tcp=127.0.0.1:15001", "tcp=[::1]:15001", "tcp=127.0.0.1:15053", "udp=127.0.0.1:15053")
	f.start()
	want := []string{
		"connection refused", "connection refused", "connection refused", "connection refused",
		"operation not permitted", "operation not permitted", "operation not permitted", "operation not permitted",
	}
	if got := f.results(); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	if got := f.stats().Rejected; !cmp.Equal(got, map[flow.Reason]uint64{flow.ReasonReservedPort: 4}) {
		t.Errorf("rejected = %v", got)
	}
}

func TestUDP(t *testing.T) {
	f := newFixture(t, self(t), "probe",
		"udp=203.0.113.53:53", "udp=[2001:db8::53]:53", "udp=127.0.0.53:53",
		"sendto=203.0.113.53:53,198.51.100.53:53", "sendto6=[2001:db8::53]:53,[2001:db8::54]:53",
		"sendto6=[::ffff:203.0.113.53]:53,[::ffff:192.0.2.53]:53",
		"sendto=203.0.113.53:443", "udp=203.0.113.53:443", "sendto=203.0.113.53:123")
	go echo(f.dns4)
	go echo(f.dns6)
	f.start()
	want := []string{
		"peer 203.0.113.53:53 from 203.0.113.53:53",
		"peer [2001:db8::53]:53 from [2001:db8::53]:53",
		"peer 127.0.0.53:53 from 127.0.0.53:53",
		"203.0.113.53:53 198.51.100.53:53",
		"[2001:db8::53]:53 [2001:db8::54]:53",
		"[::ffff:203.0.113.53]:53 [::ffff:192.0.2.53]:53",
		"operation not permitted", "operation not permitted", "operation not permitted",
	}
	if got := f.results(); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	wantRejected := map[flow.Reason]uint64{flow.ReasonUDP: 2, flow.ReasonUDPConnect: 1}
	if got := f.stats().Rejected; !cmp.Equal(got, wantRejected) {
		t.Errorf("rejected = %v", got)
	}
}

func TestBindAndSockets(t *testing.T) {
	f := newFixture(t, self(t), "probe",
		"bind=127.0.0.1:15001", "bind=0.0.0.0:15053", "bind=[::]:15128", "bind=127.0.0.1:0", "bind=[::1]:8080",
		"socket=2,1,0", "socket=10,2,17", "socket=2,3,1", "socket=2,2,1", "socket=2,1,262", "socket=10,3,58")
	f.start()
	want := []string{
		"operation not permitted", "operation not permitted", "operation not permitted", "bound", "bound",
		// Ping sockets are refused by ping_group_range before the hook.
		"made", "made", "operation not permitted", "permission denied", "operation not permitted",
		"operation not permitted",
	}
	if got := f.results(); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}

func TestUnknownSandboxIsRejected(t *testing.T) {
	f := newFixture(t, self(t), "probe", "tcp=203.0.113.7:443")
	if err := f.dp.RemoveSandbox(f.cgroupID); err != nil {
		t.Fatal(err)
	}
	f.start()
	if got := f.results(); !cmp.Equal(got, []string{"operation not permitted"}) {
		t.Error(got)
	}
	s, err := f.dp.Stats(unknownSandbox)
	if err != nil || s.Rejected[flow.ReasonUnknownSandbox] == 0 {
		t.Errorf("stats = %+v, %v", s, err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	f := newFixture(t, "/bin/sh", "-c", self(t)+" probe tcp=203.0.113.7:443; "+self(t)+" probe tcp=203.0.113.7:443; true")
	f.start()
	first, _ := f.take(f.capture4)
	second, _ := f.take(f.capture4)
	if first.Exec == second.Exec {
		t.Errorf("two execs share the id %v", first.Exec)
	}
	f.wait()
	f.drop(first)
	f.drop(second)
	waitFor(t, func() bool {
		s := f.stats()
		return s.Tasks == 0 && s.Execs == 0 && s.Origins == 0
	}, func() any { return f.stats() })
	if _, err := f.dp.ReadExec(first.Exec); err == nil {
		t.Error("an exec record outlived its last user")
	}
}

func TestFailedConnectLeavesNoOrigin(t *testing.T) {
	f := newFixture(t, self(t), "probe", "tcp=203.0.113.7:443", "tcp=[2001:db8::7]:443", "mapped=203.0.113.7:443", "sleep=200ms")
	f.capture4.Close()
	f.capture6.Close()
	f.start()
	want := []string{"connection refused", "connection refused", "connection refused", "slept"}
	if got := f.results(); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	if s := f.stats(); s.Origins != 0 {
		t.Errorf("stats = %+v", s)
	}
}

// A connection that nobody accepts loses its origin by age, and no earlier.
func TestOriginsExpire(t *testing.T) {
	f := newFixture(t, self(t), "probe", "tcp=203.0.113.7:443")
	f.start()
	f.wait()
	if n, err := f.dp.ExpireOrigins(time.Hour); n != 0 || err != nil {
		t.Fatalf("%d young origins expired, %v", n, err)
	}
	if s := f.stats(); s.Origins != 1 || s.Execs != 1 {
		t.Fatalf("stats = %+v", s)
	}
	if n, err := f.dp.ExpireOrigins(0); n != 1 || err != nil {
		t.Fatalf("%d origins expired, %v", n, err)
	}
	if s := f.stats(); s.Origins != 0 || s.Execs != 0 {
		t.Errorf("stats = %+v", s)
	}
}

// An unpinned link would be closed by the collector, and its hook with it.
func TestHooksSurviveGarbageCollection(t *testing.T) {
	f := newFixture(t, self(t), "probe", "tcp=203.0.113.7:443")
	for range 3 {
		runtime.GC()
	}
	f.start()
	if _, asked := f.take(f.capture4); asked != netip.MustParseAddrPort("203.0.113.7:443") {
		t.Errorf("asked for %v", asked)
	}
	f.wait()
}

func TestRejectionsAreTold(t *testing.T) {
	f := newFixture(t, self(t), "probe", "sendto=203.0.113.9:443", "socket=2,3,1")
	got := make(chan flow.Rejection, 16)
	go func() {
		_ = f.dp.Rejections(t.Context(), func(id uint64, r flow.Rejection) {
			if id == f.cgroupID {
				got <- r
			}
		})
	}()
	f.start()
	f.wait()
	udp, raw := <-got, <-got
	if udp.Reason != flow.ReasonUDP || udp.Destination.String() != "203.0.113.9:443" || udp.Exec.IsZero() {
		t.Errorf("first = %+v", udp)
	}
	if raw.Reason != flow.ReasonSocketType || raw.Destination.IsValid() {
		t.Errorf("second = %+v", raw)
	}
}

// echo answers from the address that was asked, as the DNS server must: the
// control message that names it is sent back with the answer.
func echo(pc net.PacketConn) {
	conn := pc.(*net.UDPConn)
	buf, oob := make([]byte, 64), make([]byte, 128)
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return
		}
		_, _, _ = conn.WriteMsgUDPAddrPort(buf[:n], oob[:oobn], from)
	}
}

func waitFor(t testing.TB, ok func() bool, state func() any) {
	t.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("still %s", strings.TrimSpace(asJSON(state())))
}
