package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestLimit(t *testing.T) {
	f := newFixture(t, func(_ *fixture, cfg *Config) { cfg.MaxConns = 1 })
	client, server := f.pair()
	f.expectRefused(f.capture)
	if r := <-f.records; r.Reason != flow.ReasonLimit || r.Engine != flow.EngineRelay || r.PID != 7 || r.Port != 443 {
		t.Errorf("%+v", r)
	}
	send(t, client, "still there")
	expect(t, server, "still there")
	client.Close()
	server.Close()
	f.record()
	client, server = f.pair() // there is room again
	send(t, client, "x")
	expect(t, server, "x")
}

// TestEveryOriginIsIdentified: an origin holds an exec record in the kernel until
// its exec was asked for, so one that is refused must be asked for too.
func TestEveryOriginIsIdentified(t *testing.T) {
	tests := []struct {
		name   string
		change func(*fixture, *Config)
	}{
		{"of the other listener", func(f *fixture, _ *Config) { f.origin.Proxy = true }},
		{"without a destination", func(f *fixture, _ *Config) { f.origin.Destination = netip.AddrPort{} }},
		{"to port 0", func(f *fixture, _ *Config) { f.origin.Destination = netip.AddrPortFrom(syntheticAllowed, 0) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			asked := make(chan flow.ExecID, 4)
			f := newFixture(t, func(f *fixture, cfg *Config) {
				f.identify = func(id flow.ExecID) (*flow.Identity, error) { asked <- id; return curl, nil }
				tt.change(f, cfg)
			})
			f.expectRefused(f.capture)
			if r := <-f.records; r.Reason != flow.ReasonNoOrigin {
				t.Errorf("%+v", r)
			}
			if len(asked) != 1 {
				t.Errorf("asked %d times", len(asked))
			}
		})
	}
}

func TestShutdown(t *testing.T) {
	f := newFixture(t, func(f *fixture, _ *Config) {
		dial := f.dial
		f.dial = func(ctx context.Context, target flow.Target, d *flow.Decision) (*net.TCPConn, error) {
			if f.relay.Live() > 1 { // the second one hangs
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return dial(ctx, target, d)
		}
	})
	client, server := f.pair()
	hanging := f.connect(f.capture)
	for f.relay.Live() < 2 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f.relay.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{client, server, hanging} {
		expectReset(t, conn)
	}
	for range 2 {
		if r := <-f.records; r.Reason != flow.ReasonShutdown || r.Verdict != flow.Allow {
			t.Errorf("%+v", r)
		}
	}
	if _, err := net.Dial("tcp", f.capture.Addr().String()); err == nil {
		t.Error("still listening")
	}
	if err := f.relay.ServeCapture(ctx, listen(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("ServeCapture after Shutdown: %v", err)
	}
}

func TestShutdownIsBounded(t *testing.T) {
	release := make(chan struct{})
	f := newFixture(t, func(f *fixture, _ *Config) {
		f.identify = func(flow.ExecID) (*flow.Identity, error) { <-release; return curl, nil }
	})
	f.connect(f.capture)
	for f.relay.Live() == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := f.relay.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	close(release)
	if r := f.record(); r.Reason != flow.ReasonShutdown {
		t.Errorf("%+v", r)
	}
}

func TestServeEnds(t *testing.T) {
	f := newFixture(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.relay.ServeCapture(ctx, listen(t)); err != nil {
		t.Errorf("context ended: %v", err)
	}
	l := listen(t)
	l.Close()
	if err := f.relay.ServeCapture(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listener closed: %v", err)
	}
}

func TestRedecide(t *testing.T) {
	var mu sync.Mutex
	decision := allowDecision
	swap := func(d *flow.Decision) {
		mu.Lock()
		defer mu.Unlock()
		decision = d
	}
	f := newFixture(t, func(f *fixture, _ *Config) {
		f.decide = func(*flow.Identity, flow.Target) *flow.Decision {
			mu.Lock()
			defer mu.Unlock()
			return decision
		}
	})
	covering := *allowDecision
	covering.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	swap(&covering)
	client, server := f.pair()
	send(t, client, "abc")
	expect(t, server, "abc")
	if n := f.relay.Redecide(); n != 0 {
		t.Errorf("closed %d", n)
	}
	send(t, server, "still")
	expect(t, client, "still")
	swap(allowDecision) // the address is not covered any more
	if n := f.relay.Redecide(); n != 1 {
		t.Errorf("closed %d", n)
	}
	expectReset(t, client)
	expectReset(t, server)
	f.want(f.base(func(r *flow.Record) {
		r.Verdict, r.Engine, r.Reason, r.Hint = flow.Deny, flow.EngineSSRF, flow.ReasonPrivateAddress, hint(flow.ReasonPrivateAddress)
		r.Detail, r.Sent, r.Received = "denied by a later policy generation", 3, 5
	}))

	client, server = f.pair()
	later := *denyDecision
	later.Generation = 4
	swap(&later)
	if n := f.relay.Redecide(); n != 1 {
		t.Errorf("closed %d", n)
	}
	expectReset(t, client)
	expectReset(t, server)
	f.want(f.base(func(r *flow.Record) {
		r.Verdict, r.Reason, r.Hint, r.Generation = flow.Deny, flow.ReasonNoEndpoint, "add an endpoint", 4
		r.Detail = "denied by a later policy generation"
	}))
}

// TestRedecideWhileDialling: an address that was dialled under allowed_ips is not
// kept by a generation that has them no longer, though it allows the host.
func TestRedecideWhileDialling(t *testing.T) {
	lending, narrow := *allowDecision, *allowDecision
	lending.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	var decision atomic.Pointer[flow.Decision]
	decision.Store(&lending)
	dialling, dial := make(chan struct{}), make(chan struct{})
	f := newFixture(t, func(f *fixture, _ *Config) {
		f.decide = func(*flow.Identity, flow.Target) *flow.Decision { return decision.Load() }
		before := f.dial
		f.dial = func(ctx context.Context, to flow.Target, d *flow.Decision) (*net.TCPConn, error) {
			close(dialling)
			<-dial
			return before(ctx, to, d)
		}
	})
	client := f.connect(f.capture)
	<-dialling
	decision.Store(&narrow)
	f.relay.Redecide()
	close(dial)
	expectReset(t, client)
	if r := f.record(); r.Verdict != flow.Deny || r.Reason != flow.ReasonPrivateAddress || r.Engine != flow.EngineSSRF {
		t.Errorf("%+v", r)
	}
}

// TestRedecideInOrder: of two at a time, the one that knows the newer generation has
// the last word.
func TestRedecideInOrder(t *testing.T) {
	lending, narrow := *allowDecision, *allowDecision
	lending.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	dialling, dial := make(chan struct{}), make(chan struct{})
	asked, answer := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	f := newFixture(t, func(f *fixture, _ *Config) {
		f.decide = func(*flow.Identity, flow.Target) *flow.Decision {
			switch calls.Add(1) {
			case 1: // the connection's own
				return &lending
			case 2: // the older Redecide, which is slow
				close(asked)
				<-answer
				return &lending
			}
			return &narrow
		}
		before := f.dial
		f.dial = func(ctx context.Context, to flow.Target, d *flow.Decision) (*net.TCPConn, error) {
			close(dialling)
			<-dial
			return before(ctx, to, d)
		}
	})
	client := f.connect(f.capture)
	<-dialling
	var both sync.WaitGroup
	both.Go(func() { f.relay.Redecide() })
	<-asked
	both.Go(func() { f.relay.Redecide() })
	time.Sleep(50 * time.Millisecond) // it would be through, if it did not wait
	close(answer)
	both.Wait()
	close(dial)
	expectReset(t, client)
	if r := f.record(); r.Reason != flow.ReasonPrivateAddress {
		t.Errorf("%+v", r)
	}
}

// TestRedecideMeanwhile: a reload that comes between the answer and its being
// noted is not missed.
func TestRedecideMeanwhile(t *testing.T) {
	calls := 0
	f := newFixture(t, func(f *fixture, _ *Config) {
		f.decide = func(*flow.Identity, flow.Target) *flow.Decision {
			if calls++; calls > 1 {
				return denyDecision
			}
			f.relay.Redecide()
			return allowDecision
		}
	})
	f.expectRefused(f.capture)
	if r := f.record(); r.Verdict != flow.Deny || r.Reason != flow.ReasonNoEndpoint {
		t.Errorf("%+v", r)
	}
}

// TestDescriptorsShort: without a descriptor to accept with, clients are reset
// and recorded, and the loop goes on.
func TestDescriptorsShort(t *testing.T) {
	reported := make(chan error, 100)
	f := newFixture(t, func(_ *fixture, cfg *Config) { cfg.Report = func(err error) { reported <- err } })
	time.Sleep(10 * time.Millisecond) // the loops hold their spares
	to := f.capture.Addr().(*net.TCPAddr).AddrPort()
	var fds []int
	for range 3 {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		fds = append(fds, fd)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = uint64(fds[len(fds)-1]) + 1 // fds are the highest, nothing below is free
	if n := openFiles(t); n < int(low.Cur) {
		t.Skipf("%d descriptors are open below %d", n, low.Cur)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceFunc(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) })
	defer restore()
	for _, fd := range fds {
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()}); err != nil {
			t.Fatal(err)
		}
		syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 10})
		if n, err := syscall.Read(fd, make([]byte, 1)); err != syscall.ECONNRESET {
			t.Errorf("read %d, %v, want a reset", n, err)
		}
		if r := <-f.records; r.Reason != flow.ReasonLimit {
			t.Errorf("%+v", r)
		}
	}
	restore()
	time.Sleep(2 * maxBackoff) // the loop is past its last shortage
	if err := <-reported; !errors.Is(err, syscall.EMFILE) {
		t.Errorf("reported %v", err)
	}
	client, server := f.pair()
	send(t, client, "x")
	expect(t, server, "x")
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) - 1 // without the directory's own
}

// TestLeaks: connections of every fate leave no descriptor and no goroutine.
func TestLeaks(t *testing.T) {
	f := newFixture(t, nil)
	round := func() {
		client, server := f.pair()
		send(t, client, strings.Repeat("x", 100<<10))
		expect(t, server, strings.Repeat("x", 100<<10))
		client.Close()
		server.Close()
		f.record()

		client, server = f.pair()
		reset(client)
		expectReset(t, server)
		server.Close()
		f.record()

		client, server = f.pair()
		send(t, client, "\x16\x03\x01\x00\x00\x00")
		expectReset(t, client)
		client.Close()
		server.Close()
		f.record()

		f.expectRefused(f.proxy) // its origin is the capture listener's
		f.record()
	}
	round()
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	for range 50 {
		round()
	}
	deadline := time.Now().Add(patience)
	for openFiles(t) > files+4 || runtime.NumGoroutine() > goroutines+2 { // Go keeps idle pipes
		if time.Now().After(deadline) {
			t.Fatalf("%d files, %d goroutines; before %d, %d", openFiles(t), runtime.NumGoroutine(), files, goroutines)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
