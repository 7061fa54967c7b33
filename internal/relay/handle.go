package relay

import (
	"io"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// capture handles a connection that a hook redirected. It may be refused only by
// a reset, since the program believes to talk to its target.
func (c *conn) capture() {
	c.record.Mode = flow.ModeTransparent
	origin, refused := c.attributeFor(false)
	if refused == nil {
		refused = c.open(flow.AddrTarget(origin.Destination))
	}
	if refused != nil {
		c.cut(denied(refused))
		return
	}
	in, err := newInlet(c.client, &c.relay.buffers)
	if err != nil {
		return // cut meanwhile
	}
	c.splice(in)
}

// proxy handles a client of the explicit proxy. Once it is known who asks, every
// refusal is an answer.
func (c *conn) proxy() {
	if _, refused := c.attributeFor(true); refused != nil {
		c.cut(denied(refused))
		return
	}
	in, err := newInlet(c.client, &c.relay.buffers)
	if err != nil {
		return // cut meanwhile
	}
	// One deadline for the request, one for the answer.
	c.client.SetDeadline(time.Now().Add(c.relay.cfg.HeadTimeout))
	target, refused := c.readRequest(in)
	if refused == nil {
		refused = c.open(target)
	}
	c.client.SetDeadline(time.Now().Add(c.relay.cfg.HeadTimeout))
	if refused != nil {
		c.refuse(refused)
		return
	}
	if _, err := io.WriteString(c.client, "HTTP/1.1 200 Connection Established\r\n\r\n"); err != nil {
		c.cut(broken("reset by the program"))
		return
	}
	c.client.SetDeadline(time.Time{})
	c.splice(in)
}
