package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// ErrClosed: the relay was shut down.
var ErrClosed = errors.New("relay is shut down")

// Config wires one sandbox's relay. All interfaces are required; a number that
// is zero takes its default.
type Config struct {
	Sandbox    string
	Origins    Origins
	Identities Identities
	Names      Names
	Decider    Decider
	Dialer     Dialer
	Sink       Sink

	// MaxConns bounds the connections at one time; 4096. Each costs two
	// descriptors.
	MaxConns int
	// HelloTimeout bounds a ClientHello, from its first byte; 10 s.
	HelloTimeout time.Duration
	// HeadTimeout bounds the request to the explicit proxy, from accept; 10 s.
	HeadTimeout time.Duration
	// FileTimeout bounds the wait for a program's file to be read, where the decision
	// turns on it; 10 s.
	FileTimeout time.Duration
	// DialTimeout bounds looking up and connecting; 30 s.
	DialTimeout time.Duration
	// HalfCloseIdle bounds the silence of the open direction once the other has
	// ended; 1 h. A connection that is open both ways has no time limit.
	HalfCloseIdle time.Duration

	// Report is told of faults that no connection can be blamed for: accept
	// errors, and panics with their stack. May be nil.
	Report func(error)
}

// Relay serves the connections of one sandbox.
type Relay struct {
	cfg     Config
	live    registry
	epoch   atomic.Uint64 // counts calls of Redecide
	again   sync.Mutex    // one Redecide at a time: an older answer must not follow a newer
	buffers sync.Pool     // of *buffer

	alive    context.Context // ends at Shutdown
	end      context.CancelFunc
	handlers sync.WaitGroup // accept loops, and the connections they started

	mu        sync.Mutex
	listeners map[*net.TCPListener]struct{}
	closed    bool
}

// New returns a relay. It does nothing until it is given a listener.
func New(cfg Config) *Relay {
	setDefault(&cfg.MaxConns, 4096)
	setDefault(&cfg.HelloTimeout, 10*time.Second)
	setDefault(&cfg.HeadTimeout, 10*time.Second)
	setDefault(&cfg.FileTimeout, 10*time.Second)
	setDefault(&cfg.DialTimeout, 30*time.Second)
	setDefault(&cfg.HalfCloseIdle, time.Hour)
	if cfg.Report == nil {
		cfg.Report = func(error) {}
	}
	r := &Relay{cfg: cfg, listeners: make(map[*net.TCPListener]struct{})}
	r.buffers.New = func() any { return new(buffer) }
	r.alive, r.end = context.WithCancel(context.Background())
	return r
}

func setDefault[T int | time.Duration](value *T, fallback T) {
	if *value <= 0 {
		*value = fallback
	}
}

// ServeCapture relays the connections that hooks redirected to l, until the
// context ends or Shutdown; it closes l. Connections outlive the context.
func (r *Relay) ServeCapture(ctx context.Context, l *net.TCPListener) error {
	return r.serve(ctx, l, (*conn).capture)
}

// ServeProxy serves l as the explicit proxy, else like ServeCapture.
func (r *Relay) ServeProxy(ctx context.Context, l *net.TCPListener) error {
	return r.serve(ctx, l, (*conn).proxy)
}

// Live returns the number of connections.
func (r *Relay) Live() int { return int(r.live.count.Load()) }

// Redecide asks the decider again about every connection and resets those that
// it now denies. It is called after the decider changed its mind. A connection
// whose decision is under way meanwhile is decided again by its own goroutine.
func (r *Relay) Redecide() (closed int) {
	r.epoch.Add(1)
	r.again.Lock()
	defer r.again.Unlock()
	for _, c := range r.live.all() {
		if c.redecide(func(id *flow.Identity) { r.redecideLater(c, id) }) {
			closed++
		}
	}
	return closed
}

// redecideLater asks about a connection once the files of its program were read: it
// is not ended for what nobody had to know so far. The caller holds again.
func (r *Relay) redecideLater(c *conn, id *flow.Identity) {
	if r.alive.Err() != nil {
		return // Shutdown ends it, and may not wait for more
	}
	r.handlers.Go(func() {
		ctx, cancel := context.WithTimeout(r.alive, r.cfg.FileTimeout)
		defer cancel()
		r.cfg.Identities.Await(ctx, id)
		r.again.Lock()
		defer r.again.Unlock()
		c.redecide(nil)
	})
}

// Shutdown closes the listeners, resets every connection and waits until all
// records are emitted. When the context ends first, it leaves what is stuck
// (in an interface's method) behind and says so.
func (r *Relay) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	for l := range r.listeners {
		l.Close()
	}
	r.mu.Unlock()
	// Before the dials are cancelled, so that their records name the cause.
	for _, c := range r.live.close() {
		c.cut(interrupted(flow.ReasonShutdown, "the agent ended the connection"))
	}
	r.again.Lock() // no Redecide starts anything from now on
	r.end()
	r.again.Unlock()

	done := make(chan struct{})
	go func() {
		r.handlers.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end %d connections: %w", r.Live(), ctx.Err())
	}
}

// enter registers an accept loop, and so keeps handlers above zero while the
// loop may start more.
func (r *Relay) enter(l *net.TCPListener) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		l.Close()
		return ErrClosed
	}
	r.listeners[l] = struct{}{}
	r.handlers.Add(1)
	return nil
}

func (r *Relay) leave(l *net.TCPListener) {
	l.Close()
	r.mu.Lock()
	delete(r.listeners, l)
	r.mu.Unlock()
	r.handlers.Done()
}
