package names

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// The bounds of what one sandbox can ask of its DNS server.
const (
	maxQuery      = 4096 // bytes; an honest one has less than 512
	maxTCPConns   = 64   // at once; further ones wait unread
	maxTCPQueries = 128  // on one connection, which is then closed
	tcpIdle       = 10 * time.Second
	tcpRead       = 2 * time.Second // for the rest, once a query has begun
	queryRate     = 5000            // a second, all sockets together
	queryBurst    = 1000
)

// Zone says which names the policy declares. The host is canonical.
type Zone interface {
	Declares(host string) bool
}

// Askers tells which program has the socket that a question came from; nil where
// it cannot be told.
type Askers interface {
	Asker(netip.AddrPort) *flow.Identity
}

// Sink takes the records of refused names. Emit must not wait for long.
type Sink interface {
	Emit(*flow.Record)
}

// ServerConfig says what a Server answers from. Only Askers may be nil.
type ServerConfig struct {
	Sandbox    string // its name in records
	Pool       *Pool
	Zone       Zone
	Askers     Askers
	Sink       Sink
	Generation func() uint64 // of the policy that Zone speaks for
}

// Server is the DNS server of one sandbox. It knows the declared names and the
// pool, and has no way upstream.
type Server struct {
	cfg      ServerConfig
	refusals refusals
	pacer    pacer
	conns    chan struct{} // one slot for each TCP connection

	queries, malformed, refused atomic.Uint64
}

// ServerStats counts since the start of a server.
type ServerStats struct {
	Queries   uint64 // all messages
	Malformed uint64 // answered FORMERR, NOTIMP or not at all
	Refused   uint64 // undeclared names and refused questions
	Paced     uint64 // queries that were made to wait by the rate limit
}

// NewServer returns a server that does not serve yet.
func NewServer(cfg ServerConfig) *Server {
	return &Server{
		cfg:      cfg,
		refusals: refusals{sink: cfg.Sink},
		pacer:    pacer{interval: time.Second / queryRate, burst: queryBurst},
		conns:    make(chan struct{}, maxTCPConns),
	}
}

// Stats returns the counters of the server.
func (s *Server) Stats() ServerStats {
	return ServerStats{
		Queries: s.queries.Load(), Malformed: s.malformed.Load(),
		Refused: s.refused.Load(), Paced: s.pacer.waits.Load(),
	}
}

// Serve answers on all sockets until ctx ends, and closes them. Call it once.
//
// The sockets may be bound to a wildcard address: a reply leaves from the address
// that was asked. Where that is an IPv6 address which only a local route covers,
// the socket must have IPV6_FREEBIND set.
//
// The error says which socket failed for good; it is nil when ctx ended.
func (s *Server) Serve(ctx context.Context, packetConns []*net.UDPConn, listeners []net.Listener) error {
	defer s.refusals.flush()
	group, ctx := errgroup.WithContext(ctx)
	for _, conn := range packetConns {
		group.Go(func() error { return s.serveUDP(ctx, conn) })
	}
	for _, l := range listeners {
		group.Go(func() error { return s.serveTCP(ctx, l) })
	}
	return group.Wait()
}

// serveUDP handles one query after the other: answering takes microseconds and
// waits for nobody, so the socket's buffer is queue enough.
func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn) error {
	defer closeWith(ctx, conn)()
	if err := requestDestination(conn); err != nil {
		return fmt.Errorf("serve DNS on %s: %w", conn.LocalAddr(), err)
	}
	buf := make([]byte, maxQuery)
	for {
		n, session, err := dns.ReadFromSessionUDP(conn, buf)
		if ended, err := socketEnded(ctx, err); ended {
			return err
		}
		// Also after a passing error, so that it cannot make a busy loop.
		s.pacer.wait(ctx)
		if err != nil {
			continue
		}
		if reply := s.respond(buf[:n], addrPortOf(session.RemoteAddr())); reply != nil {
			// It fails where the asker is gone; nobody is left to tell.
			_, _ = dns.WriteToSessionUDP(conn, reply, session)
		}
	}
}

func (s *Server) serveTCP(ctx context.Context, l net.Listener) error {
	defer closeWith(ctx, l)()
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		conn, err := l.Accept()
		if ended, err := socketEnded(ctx, err); ended {
			return err
		}
		if err != nil {
			s.pacer.wait(ctx)
			continue
		}
		select {
		case s.conns <- struct{}{}:
		case <-ctx.Done():
			conn.Close()
			return nil
		}
		streams.Go(func() {
			defer func() { <-s.conns }()
			s.serveStream(ctx, conn)
		})
	}
}

// serveStream answers the queries of one TCP connection in turn. Silence, where
// UDP would give it, is a close.
func (s *Server) serveStream(ctx context.Context, conn net.Conn) {
	defer closeWith(ctx, conn)()
	from := addrPortOf(conn.RemoteAddr())
	buf := make([]byte, maxQuery)
	for range maxTCPQueries {
		query, err := readQuery(conn, buf)
		if err != nil {
			return
		}
		s.pacer.wait(ctx)
		reply := s.respond(query, from)
		if reply == nil {
			return
		}
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply)))
		if _, err := conn.Write(append(framed, reply...)); err != nil {
			return
		}
	}
}

// readQuery reads one length-prefixed message into buf. It leaves a deadline
// that also bounds the writing of the reply.
func readQuery(conn net.Conn, buf []byte) ([]byte, error) {
	if err := conn.SetDeadline(time.Now().Add(tcpIdle)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, buf[:2]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if n > len(buf) {
		return nil, fmt.Errorf("read DNS query of %d bytes: more than %d", n, len(buf))
	}
	if err := conn.SetDeadline(time.Now().Add(tcpRead)); err != nil {
		return nil, err
	}
	_, err := io.ReadFull(conn, buf[:n])
	return buf[:n], err
}

// socketEnded tells the errors after which a socket is of no use from those that
// pass (say, out of descriptors): one of these must not end the service.
func socketEnded(ctx context.Context, err error) (bool, error) {
	switch {
	case ctx.Err() != nil:
		return true, nil
	case errors.Is(err, net.ErrClosed):
		return true, fmt.Errorf("serve DNS: %w", err)
	}
	return false, nil
}

// closeWith closes c when ctx ends, or when the returned function is called.
func closeWith(ctx context.Context, c io.Closer) func() {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	return func() {
		stop()
		c.Close()
	}
}

// requestDestination asks the kernel to tell of each packet which address it was
// sent to. A socket of one family refuses the other's option.
func requestDestination(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var err4, err6 error
	err = raw.Control(func(fd uintptr) {
		err4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		err6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	if err == nil && err4 != nil && err6 != nil {
		err = fmt.Errorf("set IP_PKTINFO: %w", err4)
	}
	return err
}

// addrPortOf returns the canonical form of a UDP or TCP address.
func addrPortOf(addr net.Addr) netip.AddrPort {
	a, ok := addr.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
