package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"github.com/ringfence/ringfence/internal/flow"
)

// Errors of Resolve, wrapped with the name.
var (
	ErrNoSuchHost = errors.New("no such host") // the name, or its addresses, do not exist
	ErrNoServers  = errors.New("no upstream resolver is configured")
	ErrNoAnswer   = errors.New("no usable answer from any upstream resolver")
)

const (
	defaultResolveTimeout = 5 * time.Second
	defaultCacheSize      = 4096
	maxLookups            = 128 // at once; further ones wait, within their timeout
	maxServers            = 8

	// How long an answer is kept, whatever its TTL says.
	minTTL      = time.Second
	maxTTL      = 10 * time.Minute
	negativeTTL = 5 * time.Second // a name that does not exist
	failureTTL  = time.Second     // no answer (RFC 9520 asks for at least this)
	partialTTL  = 5 * time.Second // one family did not answer

	// familyGrace is what the slower of A and AAAA gets once the other has
	// addresses: some servers never answer AAAA.
	familyGrace = 300 * time.Millisecond
)

// ResolverConfig says how names are looked up. Zero fields mean defaults.
type ResolverConfig struct {
	// Servers are asked in this order. Empty: those of ResolvConf.
	Servers    []netip.AddrPort
	ResolvConf string        // "/etc/resolv.conf"
	Timeout    time.Duration // of one Resolve, 5 s
	CacheSize  int           // names, 4096
}

// Resolver looks names up in DNS, upstream of the sandboxes. It knows no search
// list and no hosts file: a name means what DNS says.
type Resolver struct {
	servers func() []netip.AddrPort
	timeout time.Duration
	cache   *lru.Cache[string, outcome]
	flights singleflight.Group
	slots   chan struct{} // one for each lookup under way
}

// outcome is what a lookup came to.
type outcome struct {
	addrs   []netip.Addr
	ttl     time.Duration
	err     error
	expires time.Time
}

// NewResolver returns a resolver. It starts nothing that would have to be closed.
func NewResolver(cfg ResolverConfig) (*Resolver, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultResolveTimeout
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = defaultCacheSize
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if len(cfg.Servers) > maxServers {
		return nil, fmt.Errorf("make resolver: %d servers, at most %d", len(cfg.Servers), maxServers)
	}
	cache, err := lru.New[string, outcome](cfg.CacheSize)
	if err != nil {
		return nil, fmt.Errorf("make resolver cache: %w", err)
	}
	r := &Resolver{timeout: cfg.Timeout, cache: cache, slots: make(chan struct{}, maxLookups)}
	if len(cfg.Servers) > 0 {
		r.servers = func() []netip.AddrPort { return cfg.Servers }
	} else {
		r.servers = newResolvConf(cfg.ResolvConf).servers
	}
	return r, nil
}

// Resolve returns all addresses of a canonical host, IPv6 first, at least one.
// The slice is shared: callers do not write to it. Lookups of one name at one
// time are one lookup, and go on for the others when a caller leaves.
func (r *Resolver) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if cached, ok := r.cached(host); ok {
		return cached.addrs, cached.err
	}
	if canonical, err := flow.CanonicalHost(host); err != nil || canonical != host {
		return nil, fmt.Errorf("resolve %q: %w", host, flow.ErrHost)
	}
	flight := r.flights.DoChan(host, func() (any, error) {
		if cached, ok := r.cached(host); ok {
			return cached, nil // of a flight that ended since the caller looked
		}
		ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
		defer cancel()
		found := r.lookup(ctx, host)
		if found.err != nil {
			found.err = fmt.Errorf("resolve %s: %w", host, found.err)
		}
		found.expires = time.Now().Add(found.ttl)
		r.cache.Add(host, found)
		return found, nil
	})
	select {
	case result := <-flight:
		found := result.Val.(outcome)
		return found.addrs, found.err
	case <-ctx.Done():
		return nil, fmt.Errorf("resolve %s: %w", host, ctx.Err())
	}
}

func (r *Resolver) cached(host string) (outcome, bool) {
	found, ok := r.cache.Get(host)
	return found, ok && time.Now().Before(found.expires)
}

// lookup asks for both families at once.
func (r *Resolver) lookup(ctx context.Context, host string) outcome {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return outcome{err: ErrNoAnswer, ttl: failureTTL}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, aaaa := make(chan outcome, 1), make(chan outcome, 1)
	go func() { a <- r.query(ctx, host, dns.TypeA) }()
	go func() { aaaa <- r.query(ctx, host, dns.TypeAAAA) }()
	var v4, v6 outcome
	select {
	case v4 = <-a:
		v6 = other(v4, aaaa, cancel)
	case v6 = <-aaaa:
		v4 = other(v6, a, cancel)
	}
	return merge(v6, v4)
}

// other waits for the second family. Once the first has addresses it is
// cancelled after the grace, which makes it answer at once.
func other(first outcome, second <-chan outcome, cancel func()) outcome {
	if first.err == nil {
		defer time.AfterFunc(familyGrace, cancel).Stop()
	}
	return <-second
}

// merge makes one answer of both families'. A family without addresses does not
// matter beside one with, other than for how long that is believed.
func merge(v6, v4 outcome) outcome {
	switch {
	case v6.err == nil && v4.err == nil:
		return outcome{addrs: append(v6.addrs, v4.addrs...), ttl: min(v6.ttl, v4.ttl)}
	case v6.err == nil:
		return outcome{addrs: v6.addrs, ttl: min(v6.ttl, besideTTL(v4))}
	case v4.err == nil:
		return outcome{addrs: v4.addrs, ttl: min(v4.ttl, besideTTL(v6))}
	case errors.Is(v4.err, ErrNoSuchHost) && errors.Is(v6.err, ErrNoSuchHost):
		return outcome{err: ErrNoSuchHost, ttl: negativeTTL}
	case errors.Is(v4.err, ErrNoSuchHost):
		return outcome{err: v6.err, ttl: failureTTL}
	}
	return outcome{err: v4.err, ttl: failureTTL}
}

func besideTTL(failed outcome) time.Duration {
	if errors.Is(failed.err, ErrNoSuchHost) {
		return maxTTL
	}
	return partialTTL
}
