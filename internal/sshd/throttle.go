package sshd

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxSources is of how many sources failed logins are remembered. A flood of sources
// pushes out who failed longest ago, and is bounded by Limits.Handshakes as well.
const maxSources = 4096

// throttle remembers the sources whose logins failed. Of each it keeps one moment: when
// all its failures will be forgiven. x/time/rate would be five times the size for a
// bucket, and its bucket does not go below empty.
type throttle struct {
	most    int
	forgive time.Duration

	mu      sync.Mutex
	sources *simplelru.LRU[source, time.Time]
}

func newThrottle(most int, forgive time.Duration) (*throttle, error) {
	sources, err := simplelru.NewLRU[source, time.Time](maxSources, nil)
	if err != nil {
		return nil, err
	}
	return &throttle{most: most, forgive: forgive, sources: sources}, nil
}

// failed counts a failure of a source.
func (t *throttle) failed(from source, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	until, ok := t.sources.Peek(from)
	if !ok || until.Before(now) {
		until = now
	}
	// Whoever goes on failing waits for no longer than all that there may be, and one.
	if most := now.Add(time.Duration(t.most+1) * t.forgive); until.Before(most) {
		until = until.Add(t.forgive)
	}
	t.sources.Add(from, until)
}

// allows reports whether a source may try to log in.
func (t *throttle) allows(from source, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	until, ok := t.sources.Peek(from)
	return !ok || until.Sub(now) <= time.Duration(t.most-1)*t.forgive
}
