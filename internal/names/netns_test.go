package names

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/netns"
	"github.com/ringfence/ringfence/internal/testenv"
)

// newNetns returns a network namespace with loopback alone, in which all
// addresses of routes are local (AnyIP).
func newNetns(tb testing.TB, routes ...string) *netns.Handle {
	tb.Helper()
	ns, err := netns.New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ns.Close() })
	if err := ns.SetupLoopback(nil, prefixList(routes...)); err != nil {
		tb.Fatal(err)
	}
	return ns
}

// A client takes an answer only from the address that it asked. Here that is
// any of many, while the sockets of the server are bound to none of them.
func TestServerAnswersFromAskedAddress(t *testing.T) {
	testenv.Require(t)
	testenv.CheckLeaks(t, t.Name())
	ns := newNetns(t, "198.18.0.0/15", "fd52:696e:67fe:2::/96")
	var packetConns []*net.UDPConn
	var listeners []net.Listener
	for _, wildcard := range []string{"0.0.0.0:53", "[::]:53"} {
		pc, err := ns.ListenUDP(netip.MustParseAddrPort(wildcard))
		if err != nil {
			t.Fatal(err)
		}
		l, err := ns.ListenTCP(netip.MustParseAddrPort(wildcard))
		if err != nil {
			t.Fatal(err)
		}
		packetConns, listeners = append(packetConns, pc), append(listeners, l)
	}
	s, _ := newServer(t)
	serveOn(t, s, packetConns, listeners)
	for _, server := range []string{
		"127.0.0.1:53", "127.0.0.2:53", "127.99.98.97:53", "198.18.0.77:53",
		"[::1]:53", "[fd52:696e:67fe:2::1]:53", "[fd52:696e:67fe:2::a:b]:53",
	} {
		for _, network := range []string{"udp", "tcp"} {
			var conn net.Conn
			err := ns.Do(func() (err error) {
				conn, err = net.DialTimeout(network, server, time.Second) // connected: takes no other source
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			client := dns.Client{Net: network, Timeout: 2 * time.Second}
			reply, _, err := client.ExchangeWithConn(question("example.com.", dns.TypeAAAA), &dns.Conn{Conn: conn})
			if err != nil || len(reply.Answer) != 1 {
				t.Errorf("%s over %s: %v, %v", server, network, reply, err)
			}
			conn.Close()
		}
	}
}

// musl asks all servers of resolv.conf from one unconnected socket.
func TestServerOneSocketSeveralServers(t *testing.T) {
	testenv.Require(t)
	testenv.CheckLeaks(t, t.Name())
	ns := newNetns(t)
	server, err := ns.ListenUDP(netip.MustParseAddrPort("0.0.0.0:53"))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := newServer(t)
	serveOn(t, s, []*net.UDPConn{server}, nil)
	client, err := ns.ListenUDP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	raw := mustPack(question("example.com.", dns.TypeA))
	waiting := map[netip.AddrPort]bool{}
	for _, text := range []string{"127.0.0.53:53", "127.0.1.53:53", "127.0.2.53:53"} {
		ap := netip.MustParseAddrPort(text)
		waiting[ap] = true
		if _, err := client.WriteToUDPAddrPort(raw, ap); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for len(waiting) > 0 {
		_, from, err := client.ReadFromUDPAddrPort(make([]byte, 512))
		if err != nil {
			t.Fatalf("%v, without answers from %v", err, waiting)
		}
		if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); !waiting[from] {
			t.Fatalf("an answer from %s", from)
		}
		delete(waiting, from)
	}
}

// Real connections over both families: what is silent, closed and open.
func TestDialInNetns(t *testing.T) {
	testenv.Require(t, "ip")
	testenv.CheckLeaks(t, t.Name())
	ns := newNetns(t, "192.0.2.0/24", "2001:db8:1::/64")
	err := ns.Do(func() error {
		for _, args := range [][]string{
			// Sent to lo, and nobody's there: such packets vanish without an error.
			{"route", "add", "198.51.100.0/24", "dev", "lo"}, {"-6", "route", "add", "2001:db8:2::/64", "dev", "lo"},
			{"-6", "addr", "add", "2001:db8:1::1/128", "dev", "lo", "nodad"},
		} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				return errors.New(string(out))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var port uint16
	for _, addr := range []string{"192.0.2.1", "2001:db8:1::1"} {
		l, err := ns.ListenTCP(netip.AddrPortFrom(netip.MustParseAddr(addr), port))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port = l.Addr().(*net.TCPAddr).AddrPort().Port() // the same for both
	}
	const (
		open4, closed4, silent4 = "192.0.2.1", "192.0.2.2", "198.51.100.1"
		open6, closed6, silent6 = "2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1"
	)
	tests := []struct {
		name  string
		found []string
		want  string
	}{
		{"IPv6 first", []string{open4, open6}, open6},
		{"IPv6 closed", []string{open4, closed6}, open4},
		{"IPv6 silent", []string{open4, silent6}, open4},
		{"IPv4 silent", []string{silent4, open6}, open6},
		{"many dead before", []string{silent6, closed6, silent4, open4}, open4},
		{"all closed", []string{closed4, closed6}, ""},
		{"all silent", []string{silent4, silent6}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDialer(DialerConfig{
				Resolver: lookup(addrs(tt.found...)),
				Trusted:  prefixList("192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"),
				Timeout:  time.Second,
				Dial: func(ctx context.Context, addr netip.AddrPort) (conn *net.TCPConn, err error) {
					err = ns.Do(func() error {
						var dialer net.Dialer
						conn, err = dialer.DialTCP(ctx, "tcp", netip.AddrPort{}, addr)
						return err
					})
					return conn, err
				},
			})
			begin := time.Now()
			conn, err := d.Dial(t.Context(), flow.Target{Host: "www.example", Port: port}, &flow.Decision{Verdict: flow.Allow})
			// The order and the delays are tested on a fake clock: this is the bound.
			if took := time.Since(begin); took > 15*time.Second {
				t.Errorf("took %s", took)
			}
			var denial *flow.Denial
			switch {
			case tt.want == "":
				if !errors.As(err, &denial) || denial.Reason != flow.ReasonUpstreamUnreachable {
					t.Errorf("Dial: %v, want %s", err, flow.ReasonUpstreamUnreachable)
				}
			case err != nil:
				t.Error(err)
			default:
				defer conn.Close()
				if got := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().String(); got != tt.want {
					t.Errorf("connected to %s, want %s", got, tt.want)
				}
			}
		})
	}
}

// A server whose socket may not send from AnyIP addresses fails that client, not
// itself.
func TestServerWithoutFreebind(t *testing.T) {
	testenv.Require(t)
	ns := newNetns(t, "fd52:696e:67fe:2::/96")
	server, err := ns.ListenUDP(netip.MustParseAddrPort("[::]:53"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := server.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 0)
	}); err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
	s, _ := newServer(t)
	serveOn(t, s, []*net.UDPConn{server}, nil)
	exchange := func(addr string) error {
		var conn net.Conn
		if err := ns.Do(func() (err error) { conn, err = net.Dial("udp", addr); return err }); err != nil {
			return err
		}
		defer conn.Close()
		client := dns.Client{Timeout: 300 * time.Millisecond}
		_, _, err := client.ExchangeWithConn(question("example.com.", dns.TypeA), &dns.Conn{Conn: conn})
		return err
	}
	if err := exchange("[fd52:696e:67fe:2::1]:53"); err == nil {
		t.Error("answered from an AnyIP address without IPV6_FREEBIND: Serve asks for more than it needs")
	}
	if err := exchange("[::1]:53"); err != nil {
		t.Errorf("after a reply that could not be sent: %v", err)
	}
}
