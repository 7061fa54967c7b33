package sshd

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
)

// chunk is how much is copied at once: what fits in a packet of a channel.
const chunk = 32 << 10

// serveForward serves a connection from the client's side into the sandbox.
func (c *conn) serveForward(opened ssh.NewChannel) {
	parse := parseDirectTCP
	if opened.ChannelType() != "direct-tcpip" {
		parse = parseDirectUnix
	}
	to, err := parse(opened.ExtraData())
	if err == nil && !c.who.forwards {
		err = errors.New("the certificate permits no forwarding")
	}
	record := &flow.Record{Time: time.Now(), Reason: flow.ReasonSSHForward, Host: to.host, Port: to.port}
	if err != nil {
		c.refuseForward(opened, record, ssh.Prohibited, err)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.server.limits.Dial)
	inside, err := c.target.Dial(ctx, to.network, to.host, to.port)
	cancel()
	if err != nil {
		reason := ssh.ConnectionFailed
		if errors.Is(err, launch.ErrNotOwn) {
			reason = ssh.Prohibited
		}
		c.refuseForward(opened, record, reason, err)
		return
	}
	defer inside.Close()
	channel, requests, err := opened.Accept()
	if err != nil {
		return
	}
	c.server.counters.forwards.Add(1)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for request := range requests {
			_ = request.Reply(false, nil)
		}
		_ = inside.Close() // the client's side is closed, both ways
	}()
	record.Verdict = flow.Allow
	record.Received, record.Sent = c.join(channel, inside)
	record.Duration = time.Since(record.Time)
	c.emit(record)
	_ = channel.Close()
	<-gone // until the client closes its side the library keeps the channel, and so it counts
}

func (c *conn) refuseForward(opened ssh.NewChannel, record *flow.Record, reason ssh.RejectionReason, why error) {
	c.server.counters.denied.Add(1)
	record.Detail, record.Duration = why.Error(), time.Since(record.Time)
	c.emit(record)
	_ = opened.Reject(reason, clip(why.Error(), maxName))
}

// join copies both ways until both have ended, each with its own end, and returns how
// much went in and out.
func (c *conn) join(channel ssh.Channel, inside net.Conn) (in, out int64) {
	var ways sync.WaitGroup
	var received, sent atomic.Int64
	ways.Go(func() {
		if c.pump(inside, channel, &received, chunk) != nil {
			_ = channel.Close()
		}
		closeWrite(inside)
	})
	ways.Go(func() {
		if c.pump(channel, inside, &sent, chunk) != nil {
			_ = inside.Close()
		}
		_ = channel.CloseWrite()
	})
	ways.Wait()
	return received.Load(), sent.Load()
}

// closeWrite ends one direction of a connection, or all of it where there is but one.
func closeWrite(inside net.Conn) {
	if half, ok := inside.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	_ = inside.Close()
}

// pump copies until the end of what is read, and counts. The error is that of writing.
func (c *conn) pump(to io.Writer, from io.Reader, count *atomic.Int64, size int) error {
	buf := make([]byte, size)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			c.touch()
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
			count.Add(int64(n))
		}
		if err != nil {
			return nil // whatever it was, there is no more
		}
	}
}
