package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
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
	renew    func(*flow.Identity) *flow.Identity
	await    func(context.Context, *flow.Identity) *flow.Identity
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

func (f *fixture) Renew(id *flow.Identity) *flow.Identity { return f.renew(id) }
func (f *fixture) Await(ctx context.Context, id *flow.Identity) *flow.Identity {
	return f.await(ctx, id)
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
	f := &fixture{t: t, upstream: listen(t), capture: listenBare(t), proxy: listenBare(t), records: make(chan *flow.Record, 1<<16)}
	f.origin = flow.Origin{Exec: curl.Exec, Destination: netip.AddrPortFrom(syntheticAllowed, 443), UID: 1000}
	f.take = func(netip.AddrPort) (flow.Origin, error) { return f.origin, nil }
	f.renew = func(id *flow.Identity) *flow.Identity { return id }
	f.await = func(_ context.Context, id *flow.Identity) *flow.Identity { return id }
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

// listenBare makes a listener as a sandbox does: keepalive is the relay's affair.
func listenBare(t testing.TB) *net.TCPListener {
	t.Helper()
	config := net.ListenConfig{KeepAlive: -1}
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
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
		f.waitIdle()
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

// waitIdle waits until the relay has no connection.
func (f *fixture) waitIdle() {
	f.t.Helper()
	for deadline := time.Now().Add(patience); f.relay.Live() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatal("connections are left")
		}
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
