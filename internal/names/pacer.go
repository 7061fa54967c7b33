package names

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// pacer bounds a rate by making callers wait. A flood then fills the socket's
// buffer, and the kernel drops the rest at no cost to the agent.
type pacer struct {
	interval time.Duration // between two calls in the long run
	burst    int           // calls that an idle time saves up

	waits atomic.Uint64

	mu   sync.Mutex
	next time.Time // when the call after this one is due
}

// wait returns when the call is due, or ctx ends.
func (p *pacer) wait(ctx context.Context) {
	delay := p.reserve(time.Now())
	if delay <= 0 {
		return
	}
	p.waits.Add(1)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (p *pacer) reserve(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if saved := now.Add(-time.Duration(p.burst) * p.interval); p.next.Before(saved) {
		p.next = saved
	}
	p.next = p.next.Add(p.interval)
	return p.next.Sub(now)
}
