package relay

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/sniff"
)

// passHello holds the client's first bytes until it is clear that they are no
// ClientHello, or one that names the target, and then sends them on. It returns
// whether the direction goes on.
//
// The clock starts at the first byte: a client that waits for the server to
// speak is none of our business.
func (c *conn) passHello(p *pump) bool {
	var scanner sniff.HelloScanner
	for {
		hello, err := scanner.Scan(p.in.bytes())
		switch {
		case err == nil && !names(hello, c.target):
			c.cut(deniedHello(flow.ReasonSNIMismatch, "the TLS server name is another one than the target"))
			return false
		case err == nil, errors.Is(err, sniff.ErrNotTLS):
			return c.letGo(p)
		case !errors.Is(err, sniff.ErrMore):
			c.cut(deniedHello(flow.ReasonMalformedHello, err.Error()))
			return false
		}
		if p.in.held > 0 && !c.holding {
			c.hold(true, time.Now().Add(c.relay.cfg.HelloTimeout))
		}
		if err := p.in.fill(); err != nil {
			c.stopHello(p, err)
			return false
		}
	}
}

// hold gives the client's read deadline to the hello, or takes it back. Only this
// direction's goroutine calls it.
func (c *conn) hold(holding bool, deadline time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = holding
	c.client.SetReadDeadline(deadline)
}

// letGo sends the held bytes on.
func (c *conn) letGo(p *pump) bool {
	if c.holding {
		c.hold(false, time.Time{})
		if c.half.Load() { // the upstream ended meanwhile: its bound is due
			c.extend()
		}
	}
	if err := p.flush(); err != nil {
		p.stop(err, p.to)
		return false
	}
	return true
}

// stopHello ends the direction before it had begun.
func (c *conn) stopHello(p *pump, err error) {
	begun := p.in.held > 0
	switch {
	case begun && errors.Is(err, os.ErrDeadlineExceeded):
		c.cut(deniedHello(flow.ReasonTimeout, "the ClientHello took too long"))
	case begun && (errors.Is(err, io.EOF) || errors.Is(err, errFull)):
		c.cut(deniedHello(flow.ReasonMalformedHello, "the ClientHello is cut short"))
	default:
		p.stop(err, p.from)
	}
}

func deniedHello(reason flow.Reason, detail string) ending {
	return denied(&flow.Denial{Engine: flow.EngineSNI, Reason: reason, Detail: detail})
}

// names reports whether the hello, if it names a server, names the target. A
// name that is not canonical (a trailing dot, raw bytes) is another one.
func names(hello sniff.Hello, target flow.Target) bool {
	if !hello.HasSNI {
		return true
	}
	if target.Addr.IsValid() {
		addr, err := netip.ParseAddr(hello.SNI)
		return err == nil && addr == target.Addr
	}
	host, err := flow.CanonicalHost(hello.SNI)
	return err == nil && host == target.Host
}
