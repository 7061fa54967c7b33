package names

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/testenv"
)

// lookup is a Lookup that always finds the same.
type lookup []netip.Addr

func (l lookup) Resolve(context.Context, string) ([]netip.Addr, error) { return l, nil }

func prefixList(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

var errDialled = errors.New("dialled")

// Which addresses may be dialled, for whom. Nothing is connected to here.
func TestDialChecks(t *testing.T) {
	var (
		plain   = &flow.Decision{Verdict: flow.Allow, Engine: flow.EngineOPA}
		audited = &flow.Decision{Verdict: flow.Audit, Engine: flow.EngineOPA}
		control = &flow.Decision{Verdict: flow.Allow, Engine: flow.EngineControlPlane}
		allowed = &flow.Decision{Verdict: flow.Allow, Engine: flow.EngineOPA, AllowedIPs: prefixList("10.0.0.0/8", "fd00::/8")}
		all     = &flow.Decision{Verdict: flow.Allow, Engine: flow.EngineOPA, AllowedIPs: prefixList("0.0.0.0/0", "::/0")}
	)
	name := flow.Target{Host: "www.example", Port: 443}
	literal := func(addr string) flow.Target {
		return flow.AddrTarget(netip.AddrPortFrom(netip.MustParseAddr(addr), 443))
	}
	const (
		unsafe  = flow.ReasonUnsafeAddress
		private = flow.ReasonPrivateAddress
		ok      = flow.ReasonUpstreamUnreachable // of errDialled
	)
	tests := []struct {
		name     string
		target   flow.Target
		decision *flow.Decision
		found    []netip.Addr
		trusted  []netip.Prefix
		want     flow.Reason
	}{
		{"public", name, plain, addrs("2600::1", "1.1.1.1"), nil, ok},
		{"public, audit", name, audited, addrs("1.1.1.1"), nil, ok},
		{"public literal", literal("1.1.1.1"), plain, nil, nil, ok},
		{"private", name, plain, addrs("10.0.0.1"), nil, private},
		{"private literal", literal("10.0.0.1"), plain, nil, nil, private},
		{"private IPv6", name, plain, addrs("fd00::1"), nil, private},
		{"synthetic", name, plain, addrs("198.18.1.0"), nil, private},
		{"rebinding, last of many", name, plain, addrs("2600::1", "1.1.1.1", "1.0.0.1", "192.168.1.1"), nil, private},
		{"loopback", name, plain, addrs("127.0.0.1"), nil, unsafe},
		{"loopback among public", name, plain, addrs("1.1.1.1", "::1"), nil, unsafe},
		{"unspecified", name, plain, addrs("0.0.0.0"), nil, unsafe},
		{"unspecified IPv6", literal("::"), plain, nil, nil, unsafe},
		{"metadata", name, plain, addrs("169.254.169.254"), nil, unsafe},
		{"metadata literal", literal("169.254.169.254"), plain, nil, nil, unsafe},
		{"metadata, v4-mapped", name, plain, addrs("::ffff:169.254.169.254"), nil, unsafe},
		{"metadata, NAT64", name, plain, addrs("64:ff9b::a9fe:a9fe"), nil, unsafe},
		{"metadata, 6to4", name, plain, addrs("2002:a9fe:a9fe::1"), nil, unsafe},
		{"zone", name, plain, addrs("2600::1%lo"), nil, unsafe},

		{"allowed_ips", name, allowed, addrs("10.0.0.1", "fd12::1", "1.1.1.1"), nil, ok},
		{"allowed_ips, literal", literal("10.0.0.1"), allowed, nil, nil, ok},
		{"outside allowed_ips", name, allowed, addrs("10.0.0.1", "192.168.0.1"), nil, private},
		{"allowed_ips, NAT64 form", name, allowed, addrs("64:ff9b::10.0.0.1"), nil, private},
		{"trusted", name, plain, addrs("192.168.7.1"), prefixList("192.168.7.0/24"), ok},
		{"trusted, literal", literal("192.168.7.1"), plain, nil, prefixList("192.168.7.0/24"), ok},
		{"outside trusted", name, plain, addrs("192.168.8.1"), prefixList("192.168.7.0/24"), private},
		{"allowed_ips never lift loopback", name, all, addrs("127.0.0.1"), nil, unsafe},
		{"allowed_ips never lift link-local", name, all, addrs("fe80::1"), nil, unsafe},
		{"allowed_ips never lift metadata", name, all, addrs("fd00:ec2::254"), nil, unsafe},
		{"trusted never lifts loopback", literal("127.0.0.1"), plain, nil, prefixList("0.0.0.0/0"), unsafe},
		{"trusted never lifts multicast", literal("ff02::1"), plain, nil, prefixList("::/0"), unsafe},

		{"control plane, private", name, control, addrs("10.0.0.1"), nil, ok},
		{"control plane, loopback literal", literal("127.0.0.1"), control, nil, nil, ok},
		{"control plane, IPv6 loopback literal", literal("::1"), control, nil, nil, ok},
		{"control plane, name at loopback", name, control, addrs("127.0.0.1"), nil, unsafe},
		{"control plane, link-local", literal("169.254.1.1"), control, nil, nil, unsafe},
		{"control plane, metadata", literal("169.254.169.254"), control, nil, nil, unsafe},
		{"control plane, unspecified", literal("0.0.0.0"), control, nil, nil, unsafe},
		{"control plane, multicast", literal("224.0.0.1"), control, nil, nil, unsafe},
		{"control plane, NAT64 of loopback", literal("64:ff9b::7f00:1"), control, nil, nil, unsafe},

		{"nothing found", name, plain, nil, nil, flow.ReasonResolveFailed},
		{"no decision", name, nil, addrs("1.1.1.1"), nil, flow.ReasonPolicyError},
		{"zero decision", name, &flow.Decision{}, addrs("1.1.1.1"), nil, flow.ReasonPolicyError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			dialled := map[netip.AddrPort]bool{}
			d := NewDialer(DialerConfig{
				Resolver: lookup(tt.found), Trusted: tt.trusted,
				Dial: func(_ context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
					mu.Lock()
					defer mu.Unlock()
					dialled[addr] = true
					return nil, errDialled
				},
			})
			conn, err := d.Dial(t.Context(), tt.target, tt.decision)
			var denial *flow.Denial
			if conn != nil || !errors.As(err, &denial) || denial.Reason != tt.want {
				t.Fatalf("Dial = %v, %v; want %s", conn, err, tt.want)
			}
			engine := flow.EngineRelay
			if tt.want == unsafe || tt.want == private {
				engine = flow.EngineSSRF
			}
			if denial.Engine != engine || denial.Detail == "" {
				t.Errorf("denial %+v, want engine %s", denial, engine)
			}
			want := map[netip.AddrPort]bool{}
			if tt.want == ok {
				for _, addr := range tt.found {
					want[netip.AddrPortFrom(addr, 443)] = true
				}
				if tt.target.Addr.IsValid() {
					want[netip.AddrPortFrom(tt.target.Addr, 443)] = true
				}
			}
			if diff := cmp.Diff(want, dialled, equateAddrs); diff != "" {
				t.Errorf("dialled addresses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInterleave(t *testing.T) {
	got := interleave(addrs("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"), 1)
	var order []string
	for _, ap := range got {
		order = append(order, ap.Addr().String())
	}
	want := []string{"2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"}
	if !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

// The errors of a real resolver and of a real closed port.
func TestDialDenials(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	control := &flow.Decision{Verdict: flow.Allow, Engine: flow.EngineControlPlane}
	d := NewDialer(DialerConfig{Resolver: newResolver(t, ResolverConfig{}, &upstream{addr: deadPort(t)})})
	for target, want := range map[flow.Target]flow.Reason{
		{Host: "www.example", Port: 443}: flow.ReasonResolveFailed,
		{}:                               flow.ReasonResolveFailed,
		flow.AddrTarget(deadPort(t)):     flow.ReasonUpstreamUnreachable,
	} {
		_, err := d.Dial(t.Context(), target, control)
		var denial *flow.Denial
		if !errors.As(err, &denial) || denial.Reason != want || denial.Engine != flow.EngineRelay {
			t.Errorf("Dial(%s): %v, want %s", target, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if conn, err := d.Dial(ctx, flow.AddrTarget(deadPort(t)), control); conn != nil || err == nil {
		t.Errorf("Dial after its context ended: %v, %v", conn, err)
	}
}

// attempt is how one address behaves in a race: after a time it fails or
// connects; a negative time is never.
type attempt struct {
	after time.Duration
	fails bool
}

// Connections are real, the clock is not.
func TestRace(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const never = -1
	tests := []struct {
		name     string
		attempts []attempt
		winner   bool
		started  int
		took     time.Duration
	}{
		{"first at once", []attempt{{0, false}, {0, false}}, true, 1, 0},
		{"first within its lead", []attempt{{attemptDelay / 2, false}, {0, false}}, true, 1, attemptDelay / 2},
		{"first fails, second at once", []attempt{{0, true}, {0, false}}, true, 2, 0},
		{"first silent", []attempt{{never, false}, {0, false}}, true, 2, attemptDelay},
		{"two silent", []attempt{{never, false}, {never, false}, {0, false}}, true, 3, 2 * attemptDelay},
		{"second overtakes", []attempt{{3 * attemptDelay, false}, {0, false}, {0, false}}, true, 2, attemptDelay},
		{"first comes after all", []attempt{{attemptDelay * 3 / 2, false}, {never, false}}, true, 2, attemptDelay * 3 / 2},
		{"a failure gives the next its own lead", []attempt{{attemptDelay / 2, true}, {never, false}, {0, false}}, true, 3, attemptDelay * 3 / 2},
		{"all fail", []attempt{{0, true}, {0, true}, {0, true}}, false, 3, 0},
		{"all fail in the end", []attempt{{4 * attemptDelay, true}, {0, true}}, false, 2, 4 * attemptDelay},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var started []int
				dial := func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
					i := int(addr.Port())
					mu.Lock()
					started = append(started, i)
					mu.Unlock()
					var due <-chan time.Time
					if a := tt.attempts[i]; a.after >= 0 {
						due = time.After(a.after)
					}
					select {
					case <-due:
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if tt.attempts[i].fails {
						return nil, errDialled
					}
					return net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
				}
				var order []netip.AddrPort
				for i := range tt.attempts {
					order = append(order, netip.AddrPortFrom(netip.Addr{}, uint16(i)))
				}
				begin := time.Now()
				conn, err := race(t.Context(), dial, order)
				if took := time.Since(begin); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
				if (conn != nil) != tt.winner || (err == nil) != tt.winner {
					t.Fatalf("race = %v, %v", conn, err)
				}
				if conn != nil {
					conn.Close()
				} else if !errors.Is(err, errDialled) {
					t.Errorf("error %v, want errDialled", err)
				}
				if len(started) != tt.started || !slices.IsSorted(started) {
					t.Errorf("started %v, want %d", started, tt.started)
				}
			})
		})
	}
}

// A connection that comes about after the race is over is closed, not leaked.
func TestRaceClosesLateWinner(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
		if addr.Port() == 0 {
			<-ctx.Done() // and then connects all the same
		}
		return net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	}
	conn, err := race(t.Context(), dial, []netip.AddrPort{
		netip.AddrPortFrom(netip.Addr{}, 0), netip.AddrPortFrom(netip.Addr{}, 1),
	})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestRaceTimeout(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	d := NewDialer(DialerConfig{
		Timeout: 50 * time.Millisecond,
		Dial: func(ctx context.Context, _ netip.AddrPort) (*net.TCPConn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	begin := time.Now()
	_, err := d.Dial(t.Context(), flow.AddrTarget(netip.MustParseAddrPort("1.1.1.1:443")), &flow.Decision{Verdict: flow.Allow})
	var denial *flow.Denial
	if !errors.As(err, &denial) || denial.Reason != flow.ReasonUpstreamUnreachable || time.Since(begin) > time.Second {
		t.Errorf("Dial: %v after %s, want %s", err, time.Since(begin), flow.ReasonUpstreamUnreachable)
	}
}
