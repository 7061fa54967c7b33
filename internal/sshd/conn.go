package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/flow"
)

// dismissTime is how long a client that is let in no further may take to hear why.
const dismissTime = 5 * time.Second

// Why a connection ended by itself.
var (
	errGone      = errors.New("the client is gone")
	errSilent    = errors.New("the client does not answer")
	errIdle      = errors.New("nothing has moved for too long")
	errSandbox   = errors.New("the sandbox has ended")
	errDismissed = errors.New("the connection is let in no further")
)

// offer is the key that was offered last.
type offer struct{ user, fingerprint, why string }

// conn is one connection.
type conn struct {
	server  *Server
	net     net.Conn
	from    source
	address string // for records
	start   time.Time
	ctx     context.Context // ends with the connection; its cause says why
	stop    context.CancelCauseFunc

	// Of the login, which is one goroutine.
	offered offer
	tries   int
	key     ssh.PublicKey // that was proven

	// Since the login.
	ssh     *ssh.ServerConn
	sandbox string
	target  Sandbox
	who     admitted

	moved    atomic.Int64 // when something last moved on a channel: nanoseconds since start
	channels atomic.Int32
	noMore   atomic.Bool // the client wants no more sessions
	handlers sync.WaitGroup
}

func newConn(s *Server, accepted net.Conn, from source) *conn {
	c := &conn{server: s, net: accepted, from: from, address: addressOf(accepted, from), start: time.Now()}
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	return c
}

// end ends the connection. It may be called more than once; the first says why.
func (c *conn) end(why error) {
	c.stop(why)
	_ = c.net.Close()
}

// run is the life of a connection.
func (c *conn) run() {
	defer c.end(errGone)
	opened, requests, err := c.login()
	c.server.doorway.known(c.from)
	if err != nil {
		c.recordRefused(err)
		return
	}
	go func() {
		_ = c.ssh.Wait()
		c.end(errGone)
	}()
	go c.answer(requests)
	go c.keepAlive()
	if !c.server.quotas.take(c.sandbox, c.from, conns) {
		c.dismiss(opened, ssh.ResourceShortage, "too many connections at once")
		return
	}
	defer c.server.quotas.give(c.sandbox, c.from, conns)
	if err := c.enter(); err != nil {
		c.offered.why = err.Error()
		c.recordRefused(err)
		c.dismiss(opened, ssh.ConnectionFailed, "the sandbox is not there, or not ready")
		return
	}
	c.server.counters.logins.Add(1)
	c.recordLogin()
	go c.watchSandbox()
	c.touch()
	go c.watchIdle()
	for channel := range opened {
		c.open(channel)
	}
	c.end(errGone)
	c.handlers.Wait()
}

// login is the handshake: keys, and who it is.
func (c *conn) login() (<-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	config := *c.server.template
	config.PublicKeyCallback = c.authenticate
	config.VerifiedPublicKeyCallback = c.proven
	config.AuthLogCallback = c.tried
	_ = c.net.SetDeadline(c.start.Add(c.server.limits.Grace))
	conn, opened, requests, err := ssh.NewServerConn(c.net, &config)
	if err != nil {
		return nil, nil, err
	}
	_ = c.net.SetDeadline(time.Time{})
	who, ok := conn.Permissions.ExtraData[admittedKey{}].(admitted)
	if !ok { // never: there is no other way to log in
		return nil, nil, errKey
	}
	c.ssh, c.sandbox, c.who = conn, conn.User(), who
	return opened, requests, nil
}

// enter waits for the sandbox, and looks again whether this key may log in to the one
// that is there now: it may be another of the same name.
func (c *conn) enter() error {
	ctx, cancel := context.WithTimeout(c.ctx, c.server.limits.Ready)
	defer cancel()
	sandbox, err := c.server.cfg.Sandboxes.Sandbox(ctx, c.sandbox)
	if err != nil {
		return fmt.Errorf("wait for sandbox: %w", err)
	}
	if _, err := c.admit(ctx, c.sandbox, c.key); err != nil {
		return err
	}
	c.target = sandbox
	return nil
}

// recordRefused tells of a login that failed, and holds it against its source where it
// tried one: who only looks whether there is a server is not held up.
func (c *conn) recordRefused(err error) {
	overtime := errors.Is(err, context.DeadlineExceeded) || isTimeout(err)
	if c.tries == 0 && c.offered.fingerprint == "" && !overtime {
		return
	}
	c.server.counters.refused.Add(1)
	if c.key == nil {
		c.server.throttle.failed(c.from, time.Now())
	}
	why := c.offered.why
	switch {
	case why == "" && overtime:
		why = "it took too long"
	case why == "":
		why = "the key was not proven"
	}
	c.server.refusals.add(&flow.Record{
		Time: c.start, Duration: time.Since(c.start), Detail: why,
		User: c.offered.user, Source: c.address, Key: c.offered.fingerprint, UID: c.from.uid,
	})
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// dismiss refuses the channels of a client that is let in no further, so that a person
// reads why.
func (c *conn) dismiss(opened <-chan ssh.NewChannel, reason ssh.RejectionReason, why string) {
	c.server.counters.denied.Add(1)
	timer := time.AfterFunc(dismissTime, func() { c.end(errDismissed) })
	defer timer.Stop()
	for channel := range opened {
		_ = channel.Reject(reason, why)
	}
}

// answer answers global requests. None is granted: the answer to a keep-alive is that
// there is one.
func (c *conn) answer(requests <-chan *ssh.Request) {
	for request := range requests {
		switch request.Type {
		case "no-more-sessions@openssh.com":
			c.noMore.Store(true)
		case "tcpip-forward", "streamlocal-forward@openssh.com":
			c.deny(request.Type, "forwardings to the client's side are not served")
		}
		_ = request.Reply(false, nil)
	}
}

// deny counts what is not allowed, and records it.
func (c *conn) deny(what, why string) {
	c.server.counters.denied.Add(1)
	c.emit(&flow.Record{Verdict: flow.Deny, Reason: flow.ReasonSSHRefused, Detail: what + ": " + why})
}

// open serves a channel, or refuses it.
func (c *conn) open(channel ssh.NewChannel) {
	var serve func(ssh.NewChannel)
	taken := []what{channels}
	switch kind := channel.ChannelType(); kind {
	case "session":
		if c.noMore.Load() {
			c.server.counters.denied.Add(1)
			_ = channel.Reject(ssh.Prohibited, "no more sessions were wanted")
			return
		}
		serve = c.serveSession
		taken = append(taken, sessions)
	case "direct-tcpip", "direct-streamlocal@openssh.com":
		serve = c.serveForward
	default:
		c.server.counters.denied.Add(1)
		_ = channel.Reject(ssh.UnknownChannelType, fmt.Sprintf("channels of type %q are not served", clip(kind, 64)))
		return
	}
	if c.channels.Load() >= int32(c.server.limits.ChannelsPerConn) || !c.server.quotas.take(c.sandbox, c.from, taken...) {
		c.server.counters.denied.Add(1)
		_ = channel.Reject(ssh.ResourceShortage, "too many channels at once")
		return
	}
	c.channels.Add(1)
	c.handlers.Go(func() {
		defer c.channels.Add(-1)
		defer c.server.quotas.give(c.sandbox, c.from, taken...)
		serve(channel)
	})
}

// watchSandbox ends the connection with its sandbox.
func (c *conn) watchSandbox() {
	select {
	case <-c.target.Done():
		c.end(errSandbox)
	case <-c.ctx.Done():
	}
}

// keepAlive asks the client whether it is there. Any answer will do.
func (c *conn) keepAlive() {
	every := c.server.limits.KeepAlive
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-c.ctx.Done():
			return
		}
		timer := time.AfterFunc(time.Duration(c.server.limits.KeepAliveMost)*every, func() { c.end(errSilent) })
		_, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil)
		timer.Stop()
		if err != nil {
			return
		}
	}
}

// touch notes that something moved.
func (c *conn) touch() { c.moved.Store(int64(time.Since(c.start))) }

// watchIdle ends a connection on whose channels nothing moves.
func (c *conn) watchIdle() {
	timer := time.NewTimer(c.server.limits.Idle)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			return
		}
		left := c.server.limits.Idle - (time.Since(c.start) - time.Duration(c.moved.Load()))
		if left <= 0 {
			c.end(errIdle)
			return
		}
		timer.Reset(left)
	}
}
