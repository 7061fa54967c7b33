package relay

import (
	"sync"
	"sync/atomic"
)

// registry holds the live connections. It is split so that connections that
// start at the same time do not wait for one lock.
type registry struct {
	count  atomic.Int64
	next   atomic.Uint32
	shards [32]shard
}

type shard struct {
	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
}

// add takes in a connection, unless there are limit already or the registry was
// closed.
func (g *registry) add(c *conn, limit int) bool {
	if g.count.Add(1) > int64(limit) {
		g.count.Add(-1)
		return false
	}
	c.shard = &g.shards[g.next.Add(1)%uint32(len(g.shards))]
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if c.shard.closed {
		g.count.Add(-1)
		return false
	}
	if c.shard.conns == nil {
		c.shard.conns = make(map[*conn]struct{})
	}
	c.shard.conns[c] = struct{}{}
	return true
}

func (g *registry) remove(c *conn) {
	c.shard.mu.Lock()
	delete(c.shard.conns, c)
	c.shard.mu.Unlock()
	g.count.Add(-1)
}

// all returns the connections of now.
func (g *registry) all() []*conn { return g.collect(false) }

// close returns the connections and takes in no more.
func (g *registry) close() []*conn { return g.collect(true) }

func (g *registry) collect(last bool) []*conn {
	var conns []*conn
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		s.closed = s.closed || last
		for c := range s.conns {
			conns = append(conns, c)
		}
		s.mu.Unlock()
	}
	return conns
}
