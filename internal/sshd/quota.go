package sshd

import "sync"

// what is counted of a holder.
type what int

const (
	conns what = iota
	sessions
	channels
	whats
)

// quotas count what each sandbox and each source has. A holder that has nothing is
// forgotten, so there are no more of them than connections.
type quotas struct {
	perSandbox, perSource [whats]int

	mu        sync.Mutex
	bySandbox map[string]*[whats]int
	bySource  map[source]*[whats]int
}

func newQuotas(limits Limits) *quotas {
	in := func(q Quota) [whats]int {
		return [whats]int{conns: q.Conns, sessions: q.Sessions, channels: q.Channels}
	}
	return &quotas{
		perSandbox: in(limits.PerSandbox), perSource: in(limits.PerSource),
		bySandbox: make(map[string]*[whats]int), bySource: make(map[source]*[whats]int),
	}
}

// take counts one more of each of several for both holders, or nothing where one would
// have too many. What was taken is given back with give.
func (q *quotas) take(sandbox string, from source, things ...what) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	a, b := entry(q.bySandbox, sandbox), entry(q.bySource, from)
	for _, w := range things {
		if a[w] >= q.perSandbox[w] || b[w] >= q.perSource[w] {
			q.forget(sandbox, from)
			return false
		}
	}
	for _, w := range things {
		a[w]++
		b[w]++
	}
	return true
}

func (q *quotas) give(sandbox string, from source, things ...what) {
	q.mu.Lock()
	defer q.mu.Unlock()
	a, b := entry(q.bySandbox, sandbox), entry(q.bySource, from)
	for _, w := range things {
		a[w]--
		b[w]--
	}
	q.forget(sandbox, from)
}

// has returns how many a sandbox has now.
func (q *quotas) has(sandbox string, w what) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := q.bySandbox[sandbox]; n != nil {
		return n[w]
	}
	return 0
}

// forget drops holders that have nothing.
func (q *quotas) forget(sandbox string, from source) {
	var none [whats]int
	if n := q.bySandbox[sandbox]; n != nil && *n == none {
		delete(q.bySandbox, sandbox)
	}
	if n := q.bySource[from]; n != nil && *n == none {
		delete(q.bySource, from)
	}
}

func entry[K comparable](m map[K]*[whats]int, key K) *[whats]int {
	n := m[key]
	if n == nil {
		n = new([whats]int)
		m[key] = n
	}
	return n
}

// doorway counts connections that are not logged in, or that there are at all.
type doorway struct {
	all, perHandshake, perSource int

	mu         sync.Mutex
	open       int
	handshakes int
	bySource   map[source]int
}

// enter counts one more connection that has to log in, or refuses it.
func (d *doorway) enter(from source) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open >= d.all || d.handshakes >= d.perHandshake || d.bySource[from] >= d.perSource {
		return false
	}
	d.open++
	d.handshakes++
	d.bySource[from]++
	return true
}

// known is called when a connection has logged in, or will not.
func (d *doorway) known(from source) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.handshakes--
	if d.bySource[from]--; d.bySource[from] <= 0 {
		delete(d.bySource, from)
	}
}

// leave is called when a connection has ended, after known.
func (d *doorway) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
}
