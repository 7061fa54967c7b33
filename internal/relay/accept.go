package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 250 * time.Millisecond
	shedWait   = time.Millisecond // only for what is in the backlog already
)

// serve is an accept loop. Only a closed listener ends it: every other error of
// accept passes (the peer is gone, descriptors or memory are short), and a loop
// that gave up would leave the sandbox with a listener that never answers.
func (r *Relay) serve(ctx context.Context, l *net.TCPListener, handle func(*conn)) error {
	if err := r.enter(l); err != nil {
		return err
	}
	defer r.leave(l)
	if err := keepAlive(l); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()

	var spare spareFile
	spare.open()
	defer spare.close()
	var backoff time.Duration
	for {
		client, err := l.AcceptTCP()
		if err == nil {
			backoff = 0
			r.start(client, handle)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			if ctx.Err() != nil || r.alive.Err() != nil || r.isClosed() {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		if backoff == 0 { // once for each run of errors
			r.cfg.Report(fmt.Errorf("accept: %w", err))
		}
		if (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && r.shed(l, &spare) {
			backoff = minBackoff
			continue
		}
		backoff = min(max(2*backoff, minBackoff), maxBackoff)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		case <-r.alive.Done():
		}
	}
}

func (r *Relay) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// start hands an accepted connection to a goroutine of its own, or refuses it
// where there are too many.
func (r *Relay) start(client *net.TCPConn, handle func(*conn)) {
	c := r.newConn(client)
	if !r.live.add(c, r.cfg.MaxConns) {
		c.refuseUnheard(r.noRoom())
		return
	}
	r.handlers.Add(1)
	go func() {
		defer r.handlers.Done()
		defer r.live.remove(c)
		defer c.finish()
		c.guard(func() { handle(c) })
	}()
}

// noRoom says why the registry took in no more.
func (r *Relay) noRoom() ending {
	if r.isClosed() {
		return interrupted(flow.ReasonShutdown, "the agent is shutting down")
	}
	return limited("too many connections at once")
}

func limited(detail string) ending {
	return denied(&flow.Denial{Engine: flow.EngineRelay, Reason: flow.ReasonLimit, Detail: detail})
}

// refuseUnheard ends a connection for which there is no room. It runs in the
// accept loop, so nothing is decided and nobody is waited for.
func (c *conn) refuseUnheard(how ending) {
	defer c.finish()
	c.guard(func() {
		// For the record: who, and to where.
		if origin, refused := c.attribute(); refused == nil && !origin.Proxy {
			_, _ = c.aim(flow.AddrTarget(origin.Destination))
		}
		c.cut(how)
	})
}

// shed refuses one connection of the backlog while there is no descriptor to
// accept it with, by giving up the spare one for a moment: a client that is
// reset knows more than one that hangs. It reports whether there was one.
func (r *Relay) shed(l *net.TCPListener, spare *spareFile) bool {
	spare.close()
	defer spare.open()
	l.SetDeadline(time.Now().Add(shedWait))
	defer l.SetDeadline(time.Time{})
	client, err := l.AcceptTCP()
	if err != nil {
		return false
	}
	r.newConn(client).refuseUnheard(limited("out of file descriptors"))
	return true
}

// spareFile is a descriptor that is held to be given up. Where none could be
// had, the backlog waits.
type spareFile struct{ file *os.File }

func (s *spareFile) open() {
	file, err := os.Open(os.DevNull)
	if err == nil {
		s.file = file
	}
}

func (s *spareFile) close() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}
