package names

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/testenv"
)

var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})

// upstream is a DNS server on one loopback port, UDP and TCP.

type upstream struct {
	addr    netip.AddrPort
	queries atomic.Int64
}

// handle makes the reply to req; what it returns is sent in this order.

type handle func(network string, req *dns.Msg) [][]byte

func startUpstream(tb testing.TB, h handle) *upstream {
	tb.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	u := &upstream{addr: l.Addr().(*net.TCPAddr).AddrPort()}
	pc, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(u.addr))
	if err != nil {
		tb.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		u.queries.Add(1)
		for _, raw := range h(w.LocalAddr().Network(), req) {
			_, _ = w.Write(raw)
		}
	})
	for _, server := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		ready := make(chan struct{})
		server.NotifyStartedFunc = func() { close(ready) }
		done := make(chan error, 1)
		go func() { done <- server.ActivateAndServe() }()
		<-ready
		tb.Cleanup(func() {
			_ = server.Shutdown()
			<-done
		})
	}
	return u
}

// zoneFile answers with the zone file lines whose owner and type fit, or with all

// of them where whole is set.

func zoneFile(tb testing.TB, whole bool, lines ...string) handle {
	tb.Helper()
	var rrs []dns.RR
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			tb.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return func(_ string, req *dns.Msg) [][]byte {
		reply := new(dns.Msg).SetReply(req)
		for _, rr := range rrs {
			if whole || rr.Header().Rrtype == req.Question[0].Qtype || rr.Header().Rrtype == dns.TypeCNAME {
				reply.Answer = append(reply.Answer, rr)
			}
		}
		return [][]byte{mustPack(reply)}
	}
}

// rcode answers with an empty message.

func rcode(code int) handle {
	return func(_ string, req *dns.Msg) [][]byte { return [][]byte{mustPack(new(dns.Msg).SetRcode(req, code))} }
}

func mustPack(msg *dns.Msg) []byte {
	raw, err := msg.Pack()
	if err != nil {
		panic(err)
	}
	return raw
}

func silent(string, *dns.Msg) [][]byte { return nil }

func newResolver(tb testing.TB, cfg ResolverConfig, servers ...*upstream) *Resolver {
	tb.Helper()
	for _, u := range servers {
		cfg.Servers = append(cfg.Servers, u.addr)
	}
	r, err := NewResolver(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func TestResolve(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	tests := []struct {
		name   string
		handle handle
		want   []netip.Addr
		err    error
	}{
		{"both families", zoneFile(t, false,
			"www.example. 60 A 192.0.2.1", "www.example. 60 A 192.0.2.2", "www.example. 60 AAAA 2001:db8::1",
		), addrs("2001:db8::1", "192.0.2.1", "192.0.2.2"), nil},
		{"A only", zoneFile(t, false, "www.example. 60 A 192.0.2.1"), addrs("192.0.2.1"), nil},
		{"AAAA only", zoneFile(t, false, "www.example. 60 AAAA 2001:db8::1"), addrs("2001:db8::1"), nil},
		{"owner in another case", zoneFile(t, false, "WWW.Example. 60 A 192.0.2.1"), addrs("192.0.2.1"), nil},
		{"v4-mapped AAAA", zoneFile(t, false, "www.example. 60 AAAA ::ffff:127.0.0.1"), addrs("127.0.0.1"), nil},
		{"aliases", zoneFile(t, false,
			"b.example. 60 CNAME c.example.", "www.example. 60 CNAME b.example.", "c.example. 60 A 192.0.2.1",
		), addrs("192.0.2.1"), nil},
		{"records of other names", zoneFile(t, true,
			"evil.example. 60 A 192.0.2.66", "example. 60 A 192.0.2.66", "*.example. 60 AAAA 2001:db8::66",
		), nil, ErrNoSuchHost},
		{"records of other names beside", zoneFile(t, true,
			"evil.example. 60 A 192.0.2.66", "www.example. 60 A 192.0.2.1",
		), addrs("192.0.2.1"), nil},
		{"other class", zoneFile(t, true, "www.example. 60 CH A 192.0.2.66"), nil, ErrNoSuchHost},
		{"alias loop", zoneFile(t, true, "www.example. 60 CNAME b.example.", "b.example. 60 CNAME www.example."), nil, ErrNoSuchHost},
		{"alias to itself", zoneFile(t, true, "www.example. 60 CNAME www.example."), nil, ErrNoSuchHost},
		{"alias to nothing", zoneFile(t, true, "www.example. 60 CNAME b.example."), nil, ErrNoSuchHost},
		{"no data", rcode(dns.RcodeSuccess), nil, ErrNoSuchHost},
		{"no such name", rcode(dns.RcodeNameError), nil, ErrNoSuchHost},
		{"server failure", rcode(dns.RcodeServerFailure), nil, ErrNoAnswer},
		{"refused", rcode(dns.RcodeRefused), nil, ErrNoAnswer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newResolver(t, ResolverConfig{}, startUpstream(t, tt.handle))
			got, err := r.Resolve(t.Context(), "www.example")
			if diff := cmp.Diff(tt.want, got, equateAddrs); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
		})
	}
}

func TestResolveRefusesBadNames(t *testing.T) {
	u := startUpstream(t, zoneFile(t, false, "www.example. 60 A 192.0.2.1"))
	r := newResolver(t, ResolverConfig{}, u)
	for _, host := range []string{"", ".", "WWW.example", "www.example.", "invalid IP", "127.0.0.1", "::1", "a b"} {
		if _, err := r.Resolve(t.Context(), host); !errors.Is(err, flow.ErrHost) {
			t.Errorf("Resolve(%q): %v, want ErrHost", host, err)
		}
	}
	if n := u.queries.Load(); n != 0 {
		t.Errorf("%d queries left for names that are none", n)
	}
}

// Replies that are not to our question are passed over, and the true one behind

// them is found; where it never comes, there is no answer.

// The next server is asked when one is dead, silent or useless; all within the

// time that one Resolve may take.

func TestResolveSeveralServers(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	good := zoneFile(t, false, "www.example. 60 A 192.0.2.1")
	closed := &upstream{addr: deadPort(t)}
	for name, first := range map[string]*upstream{
		"closed port":    closed,
		"server failure": startUpstream(t, rcode(dns.RcodeServerFailure)),
		"silent":         startUpstream(t, silent),
	} {
		t.Run(name, func(t *testing.T) {
			r := newResolver(t, ResolverConfig{}, first, startUpstream(t, good))
			if got, err := r.Resolve(t.Context(), "www.example"); err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
				t.Errorf("Resolve = %v, %v", got, err)
			}
		})
	}
	t.Run("no such name is an answer", func(t *testing.T) {
		r := newResolver(t, ResolverConfig{}, startUpstream(t, rcode(dns.RcodeNameError)), startUpstream(t, good))
		if _, err := r.Resolve(t.Context(), "www.example"); !errors.Is(err, ErrNoSuchHost) {
			t.Errorf("error %v, want ErrNoSuchHost", err)
		}
	})
	t.Run("all silent", func(t *testing.T) {
		const timeout = 200 * time.Millisecond
		r := newResolver(t, ResolverConfig{Timeout: timeout}, startUpstream(t, silent), startUpstream(t, silent))
		begin := time.Now()
		_, err := r.Resolve(t.Context(), "www.example")
		if took := time.Since(begin); !errors.Is(err, ErrNoAnswer) || took < timeout || took > 5*timeout {
			t.Errorf("error %v after %s, want ErrNoAnswer after %s", err, took, timeout)
		}
	})
}

// deadPort is a loopback address on which nobody listens.

func deadPort(tb testing.TB) netip.AddrPort {
	tb.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// A server that never answers AAAA must not cost more than the grace.

func TestResolveOneFamilySilent(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	whole := zoneFile(t, false, "www.example. 60 A 192.0.2.1", "www.example. 60 AAAA 2001:db8::1")
	for qtype, want := range map[uint16]string{dns.TypeAAAA: "192.0.2.1", dns.TypeA: "2001:db8::1"} {
		r := newResolver(t, ResolverConfig{}, startUpstream(t, func(network string, req *dns.Msg) [][]byte {
			if req.Question[0].Qtype == qtype {
				return nil
			}
			return whole(network, req)
		}))
		begin := time.Now()
		got, err := r.Resolve(t.Context(), "www.example")
		if took := time.Since(begin); err != nil || !slices.Equal(got, addrs(want)) || took > time.Second {
			t.Errorf("Resolve = %v, %v after %s; want %s", got, err, took, want)
		}
	}
}

func TestResolveCache(t *testing.T) {
	tests := []struct {
		name   string
		handle handle
		ttl    time.Duration
	}{
		{"TTL", zoneFile(t, false, "www.example. 60 A 192.0.2.1", "www.example. 40 AAAA 2001:db8::1"), 40 * time.Second},
		{"TTL of an alias", zoneFile(t, false, "www.example. 30 CNAME b.example.", "b.example. 60 A 192.0.2.1"), 30 * time.Second},
		{"TTL 0", zoneFile(t, false, "www.example. 0 A 192.0.2.1"), minTTL},
		{"huge TTL", zoneFile(t, false, "www.example. 4294967295 A 192.0.2.1"), maxTTL},
		{"no such name", rcode(dns.RcodeNameError), negativeTTL},
		{"failure", rcode(dns.RcodeServerFailure), failureTTL},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := startUpstream(t, tt.handle)
			r := newResolver(t, ResolverConfig{CacheSize: 1}, u)
			first, firstErr := r.Resolve(t.Context(), "www.example")
			asked := u.queries.Load()
			again, err := r.Resolve(t.Context(), "www.example")
			if !slices.Equal(again, first) || !errors.Is(err, firstErr) || u.queries.Load() != asked {
				t.Errorf("again %v, %v with %d queries; want %v, %v with %d",
					again, err, u.queries.Load(), first, firstErr, asked)
			}
			kept, _ := r.cache.Peek("www.example")
			if left := time.Until(kept.expires); left > tt.ttl || left < tt.ttl-time.Second {
				t.Errorf("kept for %s, want %s", left, tt.ttl)
			}
			kept.expires = time.Now()
			r.cache.Add("www.example", kept)
			_, _ = r.Resolve(t.Context(), "www.example")
			if u.queries.Load() == asked {
				t.Error("an expired answer was used")
			}
			_, _ = r.Resolve(t.Context(), "other.example")
			if n := r.cache.Len(); n != 1 {
				t.Errorf("the cache of one holds %d", n)
			}
		})
	}
}

// Lookups of one name at one time are one, and a caller that leaves takes no one
// along.
func TestResolveOneFlight(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	release := make(chan struct{})
	whole := zoneFile(t, false, "www.example. 60 A 192.0.2.1")
	u := startUpstream(t, func(network string, req *dns.Msg) [][]byte {
		<-release
		return whole(network, req)
	})
	r := newResolver(t, ResolverConfig{}, u)
	hasty, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := r.Resolve(hasty, "www.example"); !errors.Is(err, context.Canceled) {
			t.Errorf("the caller that left got %v", err)
		}
	})
	for u.queries.Load() < 2 { // A and AAAA are under way
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		wg.Go(func() {
			if got, err := r.Resolve(t.Context(), "www.example"); err != nil || len(got) != 1 {
				t.Errorf("Resolve = %v, %v", got, err)
			}
		})
	}
	leave()
	close(release)
	wg.Wait()
	if n := u.queries.Load(); n != 2 {
		t.Errorf("%d queries for 21 callers, want 2", n)
	}
}

func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := NewResolver(ResolverConfig{ResolvConf: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context(), "www.example"); !errors.Is(err, ErrNoServers) {
		t.Errorf("without a file: %v, want ErrNoServers", err)
	}

	write("# comment\nsearch corp.example\nnameserver 192.0.2.1\nnameserver bad\nnameserver fe80::1%lo\n" +
		"nameserver 2001:db8::1\nnameserver 192.0.2.4\n")
	c := newResolvConf(path)
	want := []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[fe80::1%lo]:53"), netip.MustParseAddrPort("[2001:db8::1]:53"),
	}
	if diff := cmp.Diff(want, c.servers(), equateAddrs); diff != "" {
		t.Errorf("servers (-want +got):\n%s", diff)
	}

	write("nameserver 192.0.2.9\n")
	if got := c.servers(); len(got) != 3 {
		t.Errorf("servers %v: read again before its time", got)
	}
	c.checked.Store(time.Now().Add(-2 * resolvConfAge).UnixNano())
	for deadline := time.Now().Add(3 * time.Second); len(c.servers()) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("servers %v: not read again", c.servers())
		}
	}

	write("") // being rewritten
	c.read()
	if got := c.servers(); len(got) != 1 {
		t.Errorf("servers %v after the file became empty", got)
	}
}

// FuzzAddresses reads any bytes as the reply to a question. No address may come

// of it that is not in a record of the asked type.

func BenchmarkResolveCached(b *testing.B) {
	r := newResolver(b, ResolverConfig{}, startUpstream(b, zoneFile(b, false, "www.example. 600 A 192.0.2.1")))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Resolve(b.Context(), "www.example"); err != nil {
			b.Fatal(err)
		}
	}
}
