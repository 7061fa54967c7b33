package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// mood is what a moodyResolver does with a question.
type mood int32

const (
	answering mood = iota // as the internet's own resolver does
	silent
	babbling // bytes that are no answer
	absent   // nobody listens
	moods    // how many there are
)

func (m mood) String() string {
	return [...]string{"answering", "silent", "babbling", "absent"}[m]
}

// moodyResolver is a DNS server, over UDP only, that can die in several ways and
// come back.
type moodyResolver struct {
	env  *testenv.Env
	addr netip.AddrPort
	mood atomic.Int32
	asks atomic.Int64 // questions that arrived
	conn atomic.Pointer[net.UDPConn]
}

const portMoody = 5300

// newMoodyResolver starts one, which the fixture's runs use from now on. It has the
// usual resolver's address, and another port.
func newMoodyResolver(t testing.TB, f *fixture) *moodyResolver {
	t.Helper()
	m := &moodyResolver{env: f.env, addr: netip.AddrPortFrom(f.env.Resolver().Addr(), portMoody)}
	f.flags[slices.Index(f.flags, "--resolver")+1] = m.addr.String()
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.conn.Load().Close() })
	return m
}

func (m *moodyResolver) open() error {
	var conn net.PacketConn
	err := m.env.DoInternet(func() (err error) {
		conn, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", m.addr.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("open resolver: %w", err)
	}
	m.conn.Store(conn.(*net.UDPConn))
	go m.serve(conn.(*net.UDPConn))
	return nil
}

// feel changes the mood. One goroutine calls it.
func (m *moodyResolver) feel(now mood) error {
	before := mood(m.mood.Swap(int32(now)))
	switch {
	case now == absent && before != absent:
		return m.conn.Load().Close()
	case now != absent && before == absent:
		return m.open()
	}
	return nil
}

func (m *moodyResolver) serve(conn *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return // closed
		}
		m.asks.Add(1)
		switch mood(m.mood.Load()) {
		case answering:
			go m.forward(conn, append([]byte(nil), buf[:n]...), from)
		case babbling:
			for i := 2; i < n; i++ { // the id stays, so that it looks like an answer
				buf[i] = byte(i * n)
			}
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}
}

// forward asks the internet's own resolver.
func (m *moodyResolver) forward(conn *net.UDPConn, question []byte, from netip.AddrPort) {
	var upstream net.Conn
	err := m.env.DoInternet(func() (err error) {
		upstream, err = net.Dial("udp4", m.env.Resolver().String())
		return err
	})
	if err != nil {
		return
	}
	defer upstream.Close()
	upstream.SetDeadline(time.Now().Add(time.Second))
	answer := make([]byte, 2048)
	if _, err := upstream.Write(question); err != nil {
		return
	}
	if n, err := upstream.Read(answer); err == nil {
		_, _ = conn.WriteToUDPAddrPort(answer[:n], from)
	}
}
