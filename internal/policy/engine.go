package policy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ringfence/ringfence/internal/flow"
)

// Config is what an Engine needs besides a policy.
type Config struct {
	// ControlPlane is the one target that every identified program may reach,
	// whatever the policy says. Zero: none.
	ControlPlane flow.Target
	// CacheSize is how many decisions are remembered; zero for DefaultCacheSize.
	CacheSize int
}

// DefaultCacheSize is how many decisions an engine remembers unless told
// otherwise. One takes about 500 bytes, most of which decisions share.
const DefaultCacheSize = 16_384

// Engine decides the connections and requests of one sandbox. Its methods may be
// called at the same time.
type Engine struct {
	config  Config
	current atomic.Pointer[generation]

	mu sync.Mutex // one Replace at a time, so that numbers grow in order
}

// NewEngine returns an engine whose first generation is the policy.
func NewEngine(ctx context.Context, p *Policy, config Config) (*Engine, error) {
	if config.CacheSize <= 0 {
		config.CacheSize = DefaultCacheSize
	}
	e := &Engine{config: config}
	if err := e.Replace(ctx, p, nil); err != nil {
		return nil, err
	}
	return e, nil
}

// Replace makes the policy and the links in it the next generation, at once for
// all decisions that start afterwards. On an error the present generation stays.
// The same policy with other links is not compiled again.
func (e *Engine) Replace(ctx context.Context, p *Policy, links []Link) error {
	if p == nil {
		return errors.New("prepare policy: there is none")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := p.compile(ctx)
	if err != nil {
		return fmt.Errorf("prepare policy: %w", err)
	}
	next, err := newGeneration(c, links, e.Generation()+1, e.config)
	if err != nil {
		return fmt.Errorf("prepare policy: %w", err)
	}
	e.current.Store(next)
	return nil
}

// Generation returns the number of the present generation, from 1.
func (e *Engine) Generation() uint64 {
	if g := e.current.Load(); g != nil {
		return g.number
	}
	return 0
}

// Policy returns the policy of the present generation.
func (e *Engine) Policy() *Policy { return e.current.Load().policy }

// Decide returns the decision for a program and a target, never nil. It has no
// side effects but the cache; a failure of the engine is a denial.
func (e *Engine) Decide(id *flow.Identity, target flow.Target) *flow.Decision {
	g := e.current.Load()
	if d := e.exempt(g, id, target); d != nil {
		return d
	}
	return g.decide(id, target)
}

// DecideRequest returns the decision for one request on a connection, never nil.
// Where the target's endpoint is not inspected it is that of the connection. It
// is not remembered: requests seldom repeat.
func (e *Engine) DecideRequest(id *flow.Identity, target flow.Target, request flow.Request) *flow.Decision {
	g := e.current.Load()
	if d := e.exempt(g, id, target); d != nil {
		return d
	}
	return g.evaluateRequest(id, target, request)
}

// exempt returns the answer where the policy is not asked; else nil.
func (e *Engine) exempt(g *generation, id *flow.Identity, target flow.Target) *flow.Decision {
	switch {
	case id == nil:
		return g.noIdentity
	case target == e.config.ControlPlane && target != flow.Target{}:
		return g.controlPlane
	}
	return nil
}

// Declares reports whether any endpoint of the policy names the host, or it is
// the control plane's: only such names are answered by the sandbox's DNS.
func (e *Engine) Declares(host string) bool {
	name, err := flow.CanonicalHost(host)
	if err != nil {
		return false
	}
	if control := e.config.ControlPlane; name == control.Host {
		return true
	}
	return e.current.Load().declares(name)
}
