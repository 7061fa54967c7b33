package identity

import (
	"fmt"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// bounded is an LRU cache whose entries are bounded in number and in what they cost
// together. It is safe for concurrent use.
type bounded[K comparable, V any] struct {
	most int

	mu    sync.Mutex
	cache *simplelru.LRU[K, costly[V]]
	total int
}

type costly[V any] struct {
	value V
	cost  int
}

func newBounded[K comparable, V any](size, most int) (*bounded[K, V], error) {
	b := &bounded[K, V]{most: most}
	var err error
	b.cache, err = simplelru.NewLRU(size, func(_ K, c costly[V]) { b.total -= c.cost })
	if err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	return b, nil
}

func (b *bounded[K, V]) get(key K) (V, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.cache.Get(key)
	return c.value, ok
}

func (b *bounded[K, V]) add(key K, value V, cost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cache.Remove(key) // which gives back what it cost
	b.total += cost
	b.cache.Add(key, costly[V]{value, cost})
	for b.total > b.most && b.cache.Len() > 1 {
		b.cache.RemoveOldest()
	}
}

func (b *bounded[K, V]) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cache.Len()
}
