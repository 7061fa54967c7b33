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
)

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

// Server serves SSH on any number of listeners.
type Server struct {
	cfg      Config
	limits   Limits
	template *ssh.ServerConfig
	throttle *throttle
	doorway  *doorway
	quotas   *quotas
	refusals *refusals
	counters counters

	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	closed    bool
	handlers  sync.WaitGroup
}

// counters are of a server's life.
type counters struct {
	accepted, unheard, refused, logins atomic.Uint64
	sessions, forwards, denied         atomic.Uint64
}

// Stats are counts of a server.
type Stats struct {
	Conns      int    // connections now
	Handshakes int    // those of them that are not logged in
	Accepted   uint64 // connections
	Unheard    uint64 // closed because of a limit, before a word
	Refused    uint64 // logins that failed
	Logins     uint64 // logins
	Sessions   uint64 // sessions that started a command
	Forwards   uint64 // connections into sandboxes
	Denied     uint64 // channels and requests that are not allowed, or over a limit
}

// New makes a server. It serves nothing yet.
func New(cfg Config) (*Server, error) {
	limits := cfg.Limits.withDefaults()
	template, err := serverConfig(limits, cfg.HostKeys)
	if err != nil {
		return nil, fmt.Errorf("make SSH server: %w", err)
	}
	throttle, err := newThrottle(limits.Failures, limits.Forgive)
	if err != nil {
		return nil, fmt.Errorf("make SSH server: %w", err)
	}
	return &Server{
		cfg: cfg, limits: limits, template: template, throttle: throttle,
		doorway: &doorway{
			all: limits.Conns, perHandshake: limits.Handshakes, perSource: limits.HandshakesPerSource,
			bySource: make(map[source]int),
		},
		quotas:    newQuotas(limits),
		refusals:  &refusals{sink: cfg.Sink},
		listeners: make(map[net.Listener]bool),
		conns:     make(map[*conn]bool),
	}, nil
}

// Serve serves the connections of a TCP or Unix listener, which it closes at its end:
// when ctx ends or the server is shut down, which is no error.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.add(l) {
		_ = l.Close()
		return ErrClosed
	}
	defer s.remove(l)
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	backoff := time.Duration(0)
	for {
		accepted, err := l.Accept()
		if err == nil {
			backoff = 0
			s.accept(accepted)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			if ctx.Err() != nil || s.isClosed() {
				return nil
			}
			return fmt.Errorf("accept SSH connection: %w", err)
		}
		if backoff == 0 { // once for each run of errors
			s.cfg.Log.Error("accept SSH connection", "error", err)
		}
		backoff = min(max(2*backoff, minBackoff), maxBackoff)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
	}
}

// accept hands a connection to a goroutine, or closes it where there are too many. A
// line before the protocol's own is shown by clients that are asked to be wordy.
func (s *Server) accept(accepted net.Conn) {
	s.counters.accepted.Add(1)
	from := sourceOf(accepted)
	if !s.throttle.allows(from, time.Now()) || !s.doorway.enter(from) {
		s.counters.unheard.Add(1)
		s.refusals.count()
		_ = accepted.SetWriteDeadline(time.Now().Add(minBackoff))
		_, _ = accepted.Write([]byte("Too many connections or failed logins: try again later\r\n"))
		_ = accepted.Close()
		return
	}
	c := newConn(s, accepted, from)
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.conns[c] = true
		s.handlers.Add(1)
	}
	s.mu.Unlock()
	if closed {
		c.end(ErrClosed)
		s.doorway.known(from)
		s.doorway.leave()
		return
	}
	go func() {
		defer s.handlers.Done()
		defer func() {
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			s.doorway.leave()
		}()
		c.run()
	}()
}

// Shutdown ends the server: nothing more is accepted, every connection ends, and
// commands get the hang-up of their channels. It returns when they have ended, or with
// ctx. Sessions have no time of their own: one may last for days.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.conns {
		c.end(ErrClosed)
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.handlers.Wait()
		s.refusals.flush()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end SSH connections: %w", context.Cause(ctx))
	}
}

// Stats returns the counts of now.
func (s *Server) Stats() Stats {
	s.doorway.mu.Lock()
	defer s.doorway.mu.Unlock()
	return Stats{
		Conns: s.doorway.open, Handshakes: s.doorway.handshakes,
		Accepted: s.counters.accepted.Load(), Unheard: s.counters.unheard.Load(),
		Refused: s.counters.refused.Load(), Logins: s.counters.logins.Load(),
		Sessions: s.counters.sessions.Load(), Forwards: s.counters.forwards.Load(),
		Denied: s.counters.denied.Load(),
	}
}

// Conns returns how many connections are logged in to a sandbox.
func (s *Server) Conns(sandbox string) int { return s.quotas.has(sandbox, conns) }

func (s *Server) add(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.listeners[l] = true
	return true
}

func (s *Server) remove(l net.Listener) {
	_ = l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
