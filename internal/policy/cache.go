package policy

import (
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/ringfence/ringfence/internal/flow"
)

// shards is how many parts the decision cache has, so that connections that are
// decided at the same time seldom wait for one lock.
const shards = 32

// decisionKey is everything that a decision depends on within one generation.
type decisionKey struct {
	identity flow.IdentityKey
	target   flow.Target
}

// decisionCache remembers the decisions of one generation, the least recently
// used are forgotten first.
type decisionCache struct {
	seed  maphash.Seed
	parts [shards]shard
}

type shard struct {
	decisions *lru.Cache[decisionKey, *flow.Decision]
	filling   sync.Mutex // held while one decision of the shard is evaluated
	failure   failure    // guarded by filling
}

// failure is the last evaluation that failed. It is not remembered with the
// others, for it may pass; but who waited for it need not fail anew, one after the
// other.
type failure struct {
	key      decisionKey
	decision *flow.Decision
	until    time.Time
}

const failureKept = time.Second

func newDecisionCache(size int) (*decisionCache, error) {
	c := &decisionCache{seed: maphash.MakeSeed()}
	for i := range c.parts {
		decisions, err := lru.New[decisionKey, *flow.Decision](max(1, size/shards))
		if err != nil {
			return nil, fmt.Errorf("make decision cache: %w", err)
		}
		c.parts[i].decisions = decisions
	}
	return c, nil
}

func (c *decisionCache) shard(key decisionKey) *shard {
	return &c.parts[maphash.Comparable(c.seed, key)%shards]
}

func (s *shard) get(key decisionKey) (*flow.Decision, bool) { return s.decisions.Get(key) }

// fill evaluates a decision that was not there, unless another goroutine did
// meanwhile: a thousand connections of one program are one evaluation. Others of
// the same shard wait, which spares a table of what is under way.
func (s *shard) fill(key decisionKey, evaluate func() *flow.Decision) *flow.Decision {
	s.filling.Lock()
	defer s.filling.Unlock()
	if d, ok := s.get(key); ok {
		return d
	}
	if f := &s.failure; f.decision != nil && f.key == key && time.Now().Before(f.until) {
		return f.decision
	}
	d := evaluate()
	if d.Reason == flow.ReasonPolicyError {
		s.failure = failure{key, d, time.Now().Add(failureKept)}
	} else {
		s.decisions.Add(key, d)
	}
	return d
}
