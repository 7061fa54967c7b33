package relay

import (
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// conn is one connection of the sandbox, from accept to its record.
type conn struct {
	relay  *Relay
	shard  *shard // of the registry
	client *net.TCPConn
	remote netip.AddrPort // of the client

	// The fields below belong to the handler's goroutine. The pumps add to one
	// byte count each and have ended before the record is finished.
	record *flow.Record
	start  time.Time

	half atomic.Bool // one direction has ended

	mu       sync.Mutex
	identity *flow.Identity // written by the handler alone
	upstream *net.TCPConn
	target   flow.Target
	decision *flow.Decision
	lent     bool   // the address that was dialled is one of the decision's allowed_ips
	holding  bool   // the client's read deadline is that of its hello
	ended    ending // why the relay ended it; nil while nothing did
}

func (r *Relay) newConn(client *net.TCPConn) *conn {
	now := time.Now()
	c := &conn{
		relay:  r,
		client: client,
		start:  now,
		record: &flow.Record{Time: now, Sandbox: r.cfg.Sandbox},
	}
	if addr, ok := client.RemoteAddr().(*net.TCPAddr); ok {
		ap := addr.AddrPort()
		c.remote = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return c
}

// guard runs one goroutine's part of a connection. A fault in it ends this
// connection and nothing else.
func (c *conn) guard(part func()) {
	defer func() {
		if fault := recover(); fault != nil {
			c.cut(denied(&flow.Denial{Engine: flow.EngineRelay, Reason: flow.ReasonInternal, Detail: fmt.Sprint(fault)}))
			c.relay.cfg.Report(fmt.Errorf("relay a connection: panic: %v\n%s", fault, debug.Stack()))
		}
	}()
	part()
}

// settle notes why the connection ends, unless that is known already.
func (c *conn) settle(how ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = how
	}
}

// cut ends the connection at once, with a reset to both sides. It may be called
// from any goroutine, more than once.
func (c *conn) cut(how ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = how
	}
	reset(c.client)
	if c.upstream != nil {
		reset(c.upstream)
	}
}

// reset closes with RST: what waits to be sent is dropped.
func reset(conn *net.TCPConn) {
	conn.SetLinger(0) // fails only on a closed connection
	conn.Close()
}

// join makes upstream the other side, unless the connection was cut meanwhile, or
// another decision than the one it was dialled under does not cover its address.
func (c *conn) join(upstream *net.TCPConn, under *flow.Decision) *flow.Denial {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		reset(upstream)
		return &flow.Denial{Engine: flow.EngineRelay, Reason: flow.ReasonShutdown} // not the cause: that is noted
	}
	c.upstream = upstream
	addr := remoteAddr(upstream)
	c.lent = flow.ClassOf(addr) != flow.ClassPublic && covers(under.AllowedIPs, addr)
	if c.uncovered() {
		return uncovered() // what ends the connection closes both sides
	}
	return nil
}

// uncovered reports whether the address that was dialled was the policy's to
// allow, and is no longer. The caller holds mu.
func (c *conn) uncovered() bool {
	return c.lent && !covers(c.decision.AllowedIPs, remoteAddr(c.upstream))
}

// finish closes what is still open and emits the record.
func (c *conn) finish() {
	c.mu.Lock()
	upstream, how := c.upstream, c.ended
	c.mu.Unlock()
	c.client.Close()
	if upstream != nil {
		upstream.Close()
	}
	if how != nil {
		how(c.record)
	}
	c.record.Duration = time.Since(c.start)
	c.guard(func() { c.relay.cfg.Sink.Emit(c.record) })
}

// ending says in the record how the relay, and not the peers, ended a
// connection.
type ending func(*flow.Record)

// denied: a step refused it.
func denied(d *flow.Denial) ending {
	return func(r *flow.Record) {
		r.SetDenial(d)
		if r.Hint == "" {
			r.Hint = hint(d.Reason)
		}
	}
}

// interrupted: it was not refused, but had to end. A verdict that was reached
// stays.
func interrupted(reason flow.Reason, detail string) ending {
	return func(r *flow.Record) { r.Engine, r.Reason, r.Detail = flow.EngineRelay, reason, detail }
}

// broken: one side ended it by force, and so the relay did to the other.
func broken(detail string) ending {
	return func(r *flow.Record) { r.Detail = detail }
}

// redecided: a later generation denies it.
func redecided(d *flow.Decision, refused *flow.Denial) ending {
	return func(r *flow.Record) {
		r.SetDecision(d)
		denied(refused)(r)
		r.Detail = "denied by a later policy generation"
	}
}

// hint tells a person what to do about a refusal of the relay's own.
func hint(reason flow.Reason) string {
	switch reason {
	case flow.ReasonSNIMismatch:
		return "connect to the host that the TLS server name says"
	case flow.ReasonStaleAddress:
		return "look the name up again: addresses from the sandbox's DNS belong to one sandbox"
	case flow.ReasonPrivateAddress:
		return "add the address to allowed_ips of the endpoint"
	case flow.ReasonForwardProxy:
		return "unset http_proxy: plain HTTP is captured without a proxy"
	case flow.ReasonInspectionUnavailable:
		return "remove the endpoint's request rules, or connect where requests are inspected"
	}
	return ""
}
