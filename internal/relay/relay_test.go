package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence/ringfence/internal/flow"
)

// patience bounds every wait of a test; none takes nearly as long.
const patience = 20 * time.Second

const (
	allowedHost = "allowed.example"
	deniedHost  = "denied.example"
)

var (
	syntheticAllowed = netip.MustParseAddr("198.18.0.1")
	syntheticDenied  = netip.MustParseAddr("198.18.0.2")
	syntheticStale   = netip.MustParseAddr("198.18.0.9")
	curl             = flow.NewIdentity(flow.Image{Exec: flow.ExecID{TGID: 7, Time: 1}, Path: "/usr/bin/curl"}, 1000, 1000,
		[]flow.Image{{Path: "/bin/bash"}})
	allowDecision = &flow.Decision{Verdict: flow.Allow, Engine: flow.EngineOPA, Policy: "p", Reason: flow.ReasonAllowed, Generation: 3}
	denyDecision  = &flow.Decision{Engine: flow.EngineOPA, Policy: "p", Reason: flow.ReasonNoEndpoint, Generation: 3, Hint: "add an endpoint"}
)

// fixture is a relay between a client of the test and an upstream of the test.
// The sides of the relay that are other packages' are functions here; the
// connections are real.
type fixture struct {
	t     testing.TB
	relay *Relay

	origin   flow.Origin
	take     func(netip.AddrPort) (flow.Origin, error)
	identify func(flow.ExecID) (*flow.Identity, error)
	decide   func(*flow.Identity, flow.Target) *flow.Decision
	dial     func(context.Context, flow.Target, *flow.Decision) (*net.TCPConn, error)
	upstream *net.TCPListener
	records  chan *flow.Record

	capture, proxy *net.TCPListener
}

func (f *fixture) Take(a netip.AddrPort) (flow.Origin, error)             { return f.take(a) }
func (f *fixture) Identify(id flow.ExecID) (*flow.Identity, error)        { return f.identify(id) }
func (f *fixture) Decide(id *flow.Identity, t flow.Target) *flow.Decision { return f.decide(id, t) }
func (f *fixture) Emit(r *flow.Record)                                    { f.records <- r }
func (f *fixture) Contains(a netip.Addr) bool {
	return netip.MustParsePrefix("198.18.0.0/15").Contains(a)
}
func (f *fixture) Dial(ctx context.Context, t flow.Target, d *flow.Decision) (*net.TCPConn, error) {
	return f.dial(ctx, t, d)
}

func (f *fixture) Host(a netip.Addr) (string, bool) {
	switch a {
	case syntheticAllowed:
		return allowedHost, true
	case syntheticDenied:
		return deniedHost, true
	}
	return "", false
}

// newFixture starts a relay; change may alter it and its configuration before.
func newFixture(t testing.TB, change func(*fixture, *Config)) *fixture {
	f := &fixture{t: t, upstream: listen(t), capture: listen(t), proxy: listen(t), records: make(chan *flow.Record, 1<<16)}
	f.origin = flow.Origin{Exec: curl.Exec, Destination: netip.AddrPortFrom(syntheticAllowed, 443), UID: 1000}
	f.take = func(netip.AddrPort) (flow.Origin, error) { return f.origin, nil }
	f.identify = func(flow.ExecID) (*flow.Identity, error) { return curl, nil }
	f.decide = func(_ *flow.Identity, t flow.Target) *flow.Decision {
		if t.Host == allowedHost {
			return allowDecision
		}
		return denyDecision
	}
	f.dial = func(ctx context.Context, _ flow.Target, _ *flow.Decision) (*net.TCPConn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", f.upstream.Addr().String())
		if err != nil {
			return nil, err
		}
		return conn.(*net.TCPConn), nil
	}
	cfg := Config{Sandbox: "s", Origins: f, Identities: f, Names: f, Decider: f, Dialer: f, Sink: f}
	if change != nil {
		change(f, &cfg)
	}
	f.relay = New(cfg)
	served := make(chan error, 2)
	go func() { served <- f.relay.ServeCapture(context.Background(), f.capture) }()
	go func() { served <- f.relay.ServeProxy(context.Background(), f.proxy) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f.relay.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-served; err != nil && !errors.Is(err, ErrClosed) {
				t.Errorf("serve: %v", err)
			}
		}
		if n := f.relay.Live(); n != 0 {
			t.Errorf("%d connections after Shutdown", n)
		}
	})
	return f
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connect opens a client's connection to one of the relay's listeners.
func (f *fixture) connect(l *net.TCPListener) *net.TCPConn {
	f.t.Helper()
	conn, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// accept returns the upstream's end of the next connection.
func (f *fixture) accept() *net.TCPConn {
	f.t.Helper()
	f.upstream.SetDeadline(time.Now().Add(patience))
	conn, err := f.upstream.AcceptTCP()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// pair returns both ends of a captured connection.
func (f *fixture) pair() (client, server *net.TCPConn) {
	f.t.Helper()
	client = f.connect(f.capture)
	return client, f.accept()
}

// record returns the next record, and fails when there is none, or another one.
func (f *fixture) record() *flow.Record {
	f.t.Helper()
	select {
	case r := <-f.records:
		deadline := time.Now().Add(patience)
		for f.relay.Live() > 0 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		select {
		case extra := <-f.records:
			f.t.Fatalf("a second record: %+v", extra)
		default:
		}
		return r
	case <-time.After(patience):
		f.t.Fatal("no record")
		return nil
	}
}

// want compares the next record, without its times.
func (f *fixture) want(want flow.Record) {
	f.t.Helper()
	got := f.record()
	if diff := cmp.Diff(&want, got, cmpopts.IgnoreFields(flow.Record{}, "Time", "Duration")); diff != "" {
		f.t.Error(diff)
	}
	if got.Time.IsZero() || got.Duration <= 0 {
		f.t.Errorf("time %v, duration %v", got.Time, got.Duration)
	}
}

// base is the record of an allowed, captured connection without bytes.
func (f *fixture) base(change func(*flow.Record)) flow.Record {
	r := flow.Record{
		Sandbox: "s", Verdict: flow.Allow, Engine: flow.EngineOPA, Policy: "p", Reason: flow.ReasonAllowed, Generation: 3,
		Mode: flow.ModeTransparent, Binary: "/usr/bin/curl", PID: 7, UID: 1000, Ancestors: []string{"/bin/bash"}, ExecID: "7:1",
		Host: allowedHost, Port: 443, Address: "127.0.0.1",
	}
	change(&r)
	return r
}

func send(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got[:n], err, want)
	}
}

func expectEOF(t testing.TB, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d bytes, %v, want the end", n, err)
	}
}

func expectReset(t testing.TB, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %d bytes, %v, want a reset", n, err)
	}
}

// expectRefused connects and is reset: so soon, perhaps, that connect itself
// reports it.
func (f *fixture) expectRefused(l *net.TCPListener) {
	f.t.Helper()
	conn, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		if !errors.Is(err, syscall.ECONNRESET) {
			f.t.Fatal(err)
		}
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	expectReset(f.t, conn)
}

func TestServerFirst(t *testing.T) {
	f := newFixture(t, nil)
	client, server := f.pair()
	send(t, server, "220 ready\r\n")
	expect(t, client, "220 ready\r\n")
	send(t, client, "QUIT\r\n")
	expect(t, server, "QUIT\r\n")
	server.Close()
	expectEOF(t, client)
	client.Close()
	f.want(f.base(func(r *flow.Record) { r.Sent, r.Received = 6, 11 }))
}

func TestHalfClose(t *testing.T) {
	for _, tt := range []struct {
		name   string
		client bool // who ends first
	}{{"client", true}, {"server", false}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, nil)
			first, second := f.pair()
			if !tt.client {
				first, second = second, first
			}
			send(t, first, "question")
			first.CloseWrite()
			expect(t, second, "question")
			expectEOF(t, second)
			send(t, second, "answer")
			expect(t, first, "answer")
			send(t, second, "more")
			second.Close()
			expect(t, first, "more")
			expectEOF(t, first)
			f.want(f.base(func(r *flow.Record) {
				r.Sent, r.Received = 8, 10
				if !tt.client {
					r.Sent, r.Received = 10, 8
				}
			}))
		})
	}
}

func TestHalfCloseIdle(t *testing.T) {
	f := newFixture(t, func(_ *fixture, cfg *Config) { cfg.HalfCloseIdle = 200 * time.Millisecond })
	client, server := f.pair()
	client.CloseWrite()
	expectEOF(t, server)
	for range 5 { // not silent: goes on beyond the bound
		time.Sleep(80 * time.Millisecond)
		send(t, server, "x")
		expect(t, client, "x")
	}
	expectReset(t, client)
	if _, err := server.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after the reset: %v", err)
	}
	f.want(f.base(func(r *flow.Record) {
		r.Engine, r.Reason, r.Detail, r.Received = flow.EngineRelay, flow.ReasonTimeout, "half-closed, and silent since", 5
	}))
}

// TestIdle: a connection that is open both ways has no limit, not even the one
// that was set while its hello was read.
func TestIdle(t *testing.T) {
	f := newFixture(t, func(_ *fixture, cfg *Config) {
		cfg.HalfCloseIdle, cfg.HelloTimeout, cfg.HeadTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	})
	client, server := f.pair()
	time.Sleep(150 * time.Millisecond) // no first byte yet
	send(t, client, "\x16")
	time.Sleep(10 * time.Millisecond)
	send(t, client, "\x20not TLS")
	expect(t, server, "\x16\x20not TLS")
	time.Sleep(150 * time.Millisecond)
	send(t, client, "ping")
	expect(t, server, "ping")
	send(t, server, "pong")
	expect(t, client, "pong")
}

func TestReset(t *testing.T) {
	for _, tt := range []struct {
		name   string
		client bool
	}{{"the program", true}, {"the upstream", false}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, nil)
			client, server := f.pair()
			send(t, client, "abc")
			expect(t, server, "abc")
			send(t, server, "de")
			expect(t, client, "de")
			if tt.client {
				reset(client)
				expectReset(t, server)
			} else {
				reset(server)
				expectReset(t, client)
			}
			f.want(f.base(func(r *flow.Record) { r.Sent, r.Received, r.Detail = 3, 2, "reset by "+tt.name }))
		})
	}
}

func TestRefused(t *testing.T) {
	bare := func(change func(*flow.Record)) flow.Record { // before anything is known
		r := flow.Record{Sandbox: "s", Mode: flow.ModeTransparent}
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name   string
		change func(*fixture, *Config)
		want   func(*fixture) flow.Record
	}{
		{"no origin", func(f *fixture, _ *Config) {
			f.take = func(netip.AddrPort) (flow.Origin, error) { return flow.Origin{}, errors.New("key does not exist") }
		}, func(*fixture) flow.Record {
			return bare(func(r *flow.Record) {
				r.Engine, r.Reason, r.Detail = flow.EngineIdentity, flow.ReasonNoOrigin, "key does not exist"
			})
		}},
		{"empty origin", func(f *fixture, _ *Config) { f.origin = flow.Origin{} }, func(*fixture) flow.Record {
			return bare(func(r *flow.Record) {
				r.Engine, r.Reason, r.Detail = flow.EngineIdentity, flow.ReasonNoOrigin, "origin without a destination"
			})
		}},
		{"proxy's origin", func(f *fixture, _ *Config) { f.origin.Proxy = true }, func(*fixture) flow.Record {
			return bare(func(r *flow.Record) {
				r.Engine, r.Reason, r.Detail = flow.EngineIdentity, flow.ReasonNoOrigin, "the origin is of the other listener"
				r.PID, r.UID, r.ExecID = 7, 1000, "7:1"
			})
		}},
		{"no identity", func(f *fixture, _ *Config) {
			f.identify = func(flow.ExecID) (*flow.Identity, error) { return nil, nil }
		}, func(f *fixture) flow.Record {
			return bare(func(r *flow.Record) {
				r.Engine, r.Reason, r.Detail = flow.EngineIdentity, flow.ReasonNoIdentity, "unknown exec id"
				r.PID, r.UID, r.ExecID, r.Host, r.Port, r.Address = 7, 1000, "7:1", "198.18.0.1", 443, "198.18.0.1"
			})
		}},
		{"stale address", func(f *fixture, _ *Config) {
			f.origin.Destination = netip.AddrPortFrom(syntheticStale, 443)
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Engine, r.Policy, r.Reason, r.Generation = flow.Deny, flow.EngineDNS, "", flow.ReasonStaleAddress, 0
				r.Host, r.Address, r.Detail, r.Hint = "198.18.0.9", "198.18.0.9", "a synthetic address that stands for no name", hint(flow.ReasonStaleAddress)
			})
		}},
		{"denied name", func(f *fixture, _ *Config) {
			f.origin.Destination = netip.AddrPortFrom(syntheticDenied, 443)
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Reason, r.Host, r.Address, r.Hint = flow.Deny, flow.ReasonNoEndpoint, deniedHost, "198.18.0.2", "add an endpoint"
			})
		}},
		{"denied literal", func(f *fixture, _ *Config) {
			f.origin.Destination = netip.MustParseAddrPort("[2001:db8::1]:80")
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Reason, r.Host, r.Port, r.Address, r.Hint = flow.Deny, flow.ReasonNoEndpoint, "2001:db8::1", 80, "2001:db8::1", "add an endpoint"
			})
		}},
		{"no decision", func(f *fixture, _ *Config) {
			f.decide = func(*flow.Identity, flow.Target) *flow.Decision { return nil }
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Engine, r.Policy, r.Reason, r.Generation = flow.Deny, flow.EngineRelay, "", flow.ReasonPolicyError, 0
				r.Address, r.Detail = "198.18.0.1", "no decision"
			})
		}},
		{"must be inspected", func(f *fixture, _ *Config) {
			d := *allowDecision
			d.Inspect = true
			f.decide = func(*flow.Identity, flow.Target) *flow.Decision { return &d }
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Engine, r.Reason = flow.Deny, flow.EngineRelay, flow.ReasonInspectionUnavailable
				r.Address, r.Hint = "198.18.0.1", hint(flow.ReasonInspectionUnavailable)
			})
		}},
		{"panic", func(f *fixture, _ *Config) {
			f.decide = func(*flow.Identity, flow.Target) *flow.Decision { panic("boom") }
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Engine, r.Policy, r.Reason, r.Generation = flow.Deny, flow.EngineRelay, "", flow.ReasonInternal, 0
				r.Address, r.Detail = "198.18.0.1", "boom"
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture, cfg *Config) {
				f.dial = func(context.Context, flow.Target, *flow.Decision) (*net.TCPConn, error) {
					t.Error("dialled")
					return nil, errors.New("dialled")
				}
				tt.change(f, cfg)
			})
			f.expectRefused(f.capture)
			f.want(tt.want(f))
		})
	}
}

func TestDialErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want func(*flow.Record)
	}{
		{"denial", &flow.Denial{Engine: flow.EngineSSRF, Reason: flow.ReasonPrivateAddress, Detail: "10.0.0.1 is private", Addr: netip.MustParseAddrPort("10.0.0.1:443")}, func(r *flow.Record) {
			r.Engine, r.Reason, r.Detail, r.Address, r.Hint = flow.EngineSSRF, flow.ReasonPrivateAddress, "10.0.0.1 is private", "10.0.0.1", hint(flow.ReasonPrivateAddress)
		}},
		{"other", errors.New("no route"), func(r *flow.Record) {
			r.Engine, r.Reason, r.Detail, r.Address = flow.EngineRelay, flow.ReasonUpstreamUnreachable, "no route", "198.18.0.1"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture, _ *Config) {
				f.dial = func(context.Context, flow.Target, *flow.Decision) (*net.TCPConn, error) { return nil, tt.err }
			})
			f.expectRefused(f.capture)
			f.want(f.base(func(r *flow.Record) {
				r.Verdict = flow.Deny
				tt.want(r)
			}))
		})
	}
}

func TestDialTimeout(t *testing.T) {
	f := newFixture(t, func(f *fixture, cfg *Config) {
		cfg.DialTimeout = 20 * time.Millisecond
		f.dial = func(ctx context.Context, _ flow.Target, _ *flow.Decision) (*net.TCPConn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	f.expectRefused(f.capture)
	if r := f.record(); r.Reason != flow.ReasonUpstreamUnreachable {
		t.Errorf("%+v", r)
	}
}

func TestAudit(t *testing.T) {
	d := *denyDecision
	d.Verdict = flow.Audit
	f := newFixture(t, func(f *fixture, _ *Config) { f.decide = func(*flow.Identity, flow.Target) *flow.Decision { return &d } })
	client, server := f.pair()
	send(t, client, "x")
	expect(t, server, "x")
	client.Close()
	server.Close()
	f.want(f.base(func(r *flow.Record) {
		r.Verdict, r.Reason, r.Hint, r.Sent = flow.Audit, d.Reason, d.Hint, 1
	}))
}

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
	client, server := f.pair()
	send(t, client, "abc")
	expect(t, server, "abc")
	if n := f.relay.Redecide(); n != 0 {
		t.Errorf("closed %d", n)
	}
	covering := *allowDecision
	covering.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	swap(&covering)
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
