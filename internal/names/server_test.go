package names

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/testenv"
)

// zone declares the names that are in it.

type zone map[string]bool

func (z zone) Declares(host string) bool { return z[host] }

// records is a sink that keeps what it gets.

type records struct {
	mu   sync.Mutex
	list []*flow.Record
}

func (r *records) Emit(record *flow.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, record)
}

func (r *records) all() []*flow.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// askers knows one program, behind every port.

type askers struct{ identity *flow.Identity }

func (a askers) Asker(netip.AddrPort) *flow.Identity { return a.identity }

func newServer(tb testing.TB) (*Server, *records) {
	tb.Helper()
	sink := new(records)
	return NewServer(ServerConfig{
		Sandbox:    "test",
		Pool:       newPool(tb, PoolConfig{Max: 3}),
		Zone:       zone{"example.com": true, "a.example": true, "b.example": true, "c.example": true, longest: true},
		Askers:     askers{flow.NewIdentity(flow.Image{Exec: flow.ExecID{TGID: 7, Time: 9}, Path: "/usr/bin/curl"}, 1000, 1000, nil)},
		Sink:       sink,
		Generation: func() uint64 { return 5 },
	}), sink
}

// longest is a name of 253 bytes.

var longest = strings.Repeat("abcdefg.", 31) + "abcde"

// serve starts a server on one loopback port, UDP and TCP, and returns its

// address and what stops it.

func serve(tb testing.TB, s *Server) (string, func()) {
	tb.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(l.Addr().(*net.TCPAddr).AddrPort()))
	if err != nil {
		tb.Fatal(err)
	}
	return l.Addr().String(), serveOn(tb, s, []*net.UDPConn{udp}, []net.Listener{l})
}

func serveOn(tb testing.TB, s *Server, udp []*net.UDPConn, tcp []net.Listener) func() {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, udp, tcp) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

func ask1(tb testing.TB, network, server string, q *dns.Msg) *dns.Msg {
	tb.Helper()
	client := dns.Client{Net: network, Timeout: 3 * time.Second}
	reply, _, err := client.Exchange(q, server)
	if err != nil {
		tb.Fatalf("ask %s over %s: %v", q.Question[0].Name, network, err)
	}
	return reply
}

func question(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// A message that is no query gets an error or silence, never more.

func TestServerRecords(t *testing.T) {
	s, sink := newServer(t)
	server, stop := serve(t, s)
	for range 3 {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			ask1(t, "udp", server, question("Evil.example.", qtype))
			ask1(t, "tcp", server, question("eVIL.example.", qtype))
		}
	}
	ask1(t, "udp", server, question(`b\195\188cher\010.x\.y\\.example.`, dns.TypeA))
	ask1(t, "udp", server, question("example.com.", dns.TypeANY))
	for _, name := range []string{"example.com.", "a.example.", "b.example.", "c.example."} {
		ask1(t, "udp", server, question(name, dns.TypeA)) // the pool has room for three
	}
	if reply := ask1(t, "udp", server, question("c.example.", dns.TypeA)); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %d with an exhausted pool, want SERVFAIL", reply.Rcode)
	}
	stop()
	refused := func(host string, reason flow.Reason, detail string, count uint64) *flow.Record {
		return &flow.Record{
			Sandbox: "test", Verdict: flow.Deny, Engine: flow.EngineDNS, Reason: reason, Detail: detail, Generation: 5,
			Mode: flow.ModeDNS, Binary: "/usr/bin/curl", PID: 7, UID: 1000, Ancestors: []string{}, Host: host, ExecID: "7:9",
			Count: count,
		}
	}
	want := []*flow.Record{
		refused("Evil.example", flow.ReasonUndeclaredName, "", 12),
		refused("b\xc3\xbccher\n.x\\.y\\\\.example", flow.ReasonUndeclaredName, "", 1),
		refused("example.com", flow.ReasonQuestionRefused, "class IN, type ANY", 1),
		refused("c.example", flow.ReasonNamePoolExhausted, "", 2),
	}
	if diff := cmp.Diff(want, sink.all(), cmpopts.IgnoreFields(flow.Record{}, "Time")); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if got := s.Stats(); got.Refused != 16 || got.Malformed != 0 {
		t.Errorf("stats %+v", got)
	}
}

// The bounds of TCP: queries of one connection, size of a query, connections.

func TestServerTCPBounds(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	s, _ := newServer(t)
	server, _ := serve(t, s)
	connect := func() *dns.Conn {
		t.Helper()
		c, err := dns.DialTimeout("tcp", server, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	roundTrip := func(c *dns.Conn) error {
		if err := c.WriteMsg(question("example.com.", dns.TypeA)); err != nil {
			return err
		}
		_, err := c.ReadMsg()
		return err
	}

	c := connect()
	for i := range maxTCPQueries {
		if err := roundTrip(c); err != nil {
			t.Fatalf("query %d: %v", i, err)
		}
	}
	if err := roundTrip(c); err == nil {
		t.Errorf("a connection took more than %d queries", maxTCPQueries)
	}

	c = connect()
	if _, err := c.Conn.Write([]byte{maxQuery >> 8, maxQuery&0xff + 1}); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after an oversized length: %d bytes, %v; want EOF", n, err)
	}

	var idle []*dns.Conn
	for range maxTCPConns {
		c := connect()
		if err := roundTrip(c); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	late := connect()
	if err := late.WriteMsg(question("example.com.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if err := late.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Conn.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("a connection over the bound was answered: %v", err)
	}
	idle[0].Close()
	if err := late.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := late.ReadMsg(); err != nil {
		t.Errorf("the waiting connection got no answer when a slot was free: %v", err)
	}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// A pipelining client gets its answers in turn; one that hangs up, nothing.

func TestServerTCPPipelined(t *testing.T) {
	s, _ := newServer(t)
	server, _ := serve(t, s)
	c, err := dns.DialTimeout("tcp", server, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var ids []uint16
	for range 8 {
		q := question("example.com.", dns.TypeA)
		ids = append(ids, q.Id)
		if err := c.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		reply, err := c.ReadMsg()
		if err != nil || reply.Id != id {
			t.Fatalf("reply %v, %v; want id %d", reply, err, id)
		}
	}
}

// failingListener is out of descriptors now and then.

type failingListener struct {
	net.Listener
	failures int
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: unix.EMFILE}
	}
	return l.Listener.Accept()
}

func TestServeOutlivesPassingErrors(t *testing.T) {
	s, _ := newServer(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, s, nil, []net.Listener{&failingListener{l, 5}})
	ask1(t, "tcp", l.Addr().String(), question("example.com.", dns.TypeA))
}

func TestServeEndsWithLostSocket(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	s, _ := newServer(t)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { udp.Close() })
	if err := s.Serve(context.Background(), []*net.UDPConn{udp}, []net.Listener{l}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v, want net.ErrClosed", err)
	}
	if conn, err := net.Dial("tcp4", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("the listener is still open")
	}
}

// FuzzRespond sends any bytes to the handler. A reply is short, well formed, for

// this query, and never gives away more than a synthetic address of a declared

// name.

// The longest declared name fits, with everything that a reply can hold.

func BenchmarkServeUDP(b *testing.B) {
	s, _ := newServer(b)
	s.pacer.interval = 0
	server, _ := serve(b, s)
	conn, err := dns.Dial("udp", server)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	q := question("example.com.", dns.TypeA)
	for b.Loop() {
		if err := conn.WriteMsg(q); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.ReadMsg(); err != nil {
			b.Fatal(err)
		}
	}
}
