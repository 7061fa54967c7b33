package names

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// ErrPoolExhausted says that no synthetic address is left.
var ErrPoolExhausted = errors.New("no synthetic address left")

const (
	defaultMaxNames = 16384
	poolLimit       = 1 << 20
	// firstIndex leaves the low addresses of both prefixes to the sandbox's
	// own interfaces.
	firstIndex = 256
)

// PoolConfig says which addresses stand for names. Zero fields mean defaults.
type PoolConfig struct {
	V4  netip.Prefix // 198.18.0.0/15
	V6  netip.Prefix // fd52:696e:67fe:1::/64
	Max int          // names, 16384

	// Known are the names that a pool before this one had, in the order in which it
	// had told Remember of them: each keeps its addresses.
	Known []string
	// Remember is told of each further name before its addresses are handed out, one
	// at a time. With an error none are: they could come to mean another name. Nil:
	// the addresses are forgotten with the pool.
	Remember func(host string) error
}

// Pool gives each name of one sandbox a synthetic IPv4 and IPv6 address, for as
// long as the pool lives: an address that a program still holds must never come
// to mean another name.
type Pool struct {
	v4, v6   netip.Prefix
	max      int
	remember func(string) error

	mu    sync.RWMutex
	index map[string]int // host to its place in hosts
	hosts []string
}

// NewPool returns a pool without names but the known ones. Both prefixes must have
// room for all names.
func NewPool(cfg PoolConfig) (*Pool, error) {
	if !cfg.V4.IsValid() {
		cfg.V4 = netip.MustParsePrefix("198.18.0.0/15")
	}
	if !cfg.V6.IsValid() {
		cfg.V6 = netip.MustParsePrefix("fd52:696e:67fe:1::/64")
	}
	if cfg.Max == 0 {
		cfg.Max = defaultMaxNames
	}
	if cfg.Max < 0 || cfg.Max > poolLimit {
		return nil, fmt.Errorf("make name pool of %d names: must be 1 to %d", cfg.Max, poolLimit)
	}
	if !cfg.V4.Addr().Is4() || !cfg.V6.Addr().Is6() || cfg.V6.Addr().Is4In6() {
		return nil, fmt.Errorf("make name pool of %s and %s: must be an IPv4 and an IPv6 prefix", cfg.V4, cfg.V6)
	}
	if len(cfg.Known) > cfg.Max {
		return nil, fmt.Errorf("make name pool of %d names: %d are known", cfg.Max, len(cfg.Known))
	}
	p := &Pool{
		v4: cfg.V4.Masked(), v6: cfg.V6.Masked(), max: cfg.Max, remember: cfg.Remember,
		index: map[string]int{}, hosts: slices.Clone(cfg.Known),
	}
	for i, host := range p.hosts {
		p.index[host] = i
	}
	if len(p.index) != len(p.hosts) {
		return nil, errors.New("make name pool: a name is known twice")
	}
	for _, prefix := range []netip.Prefix{p.v4, p.v6} {
		if !prefix.Contains(nth(prefix, cfg.Max-1)) {
			return nil, fmt.Errorf("make name pool: %s has no room for %d names", prefix, cfg.Max)
		}
	}
	return p, nil
}

// Assign returns the synthetic addresses of a canonical host, the same ones each
// time. The error is ErrPoolExhausted, or that of PoolConfig.Remember.
func (p *Pool) Assign(host string) (v4, v6 netip.Addr, err error) {
	p.mu.RLock()
	i, ok := p.index[host]
	p.mu.RUnlock()
	if !ok {
		if i, err = p.add(host); err != nil {
			return netip.Addr{}, netip.Addr{}, err
		}
	}
	return nth(p.v4, i), nth(p.v6, i), nil
}

func (p *Pool) add(host string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i, ok := p.index[host]; ok { // another Assign was faster
		return i, nil
	}
	if len(p.hosts) == p.max {
		return 0, ErrPoolExhausted
	}
	host = strings.Clone(host) // it may be a part of a whole message
	if p.remember != nil {
		if err := p.remember(host); err != nil {
			return 0, fmt.Errorf("remember name: %w", err)
		}
	}
	i := len(p.hosts)
	p.hosts = append(p.hosts, host)
	p.index[host] = i
	return i, nil
}

// Host returns the name that a synthetic address stands for.
func (p *Pool) Host(addr netip.Addr) (string, bool) {
	addr = addr.Unmap()
	prefix := p.v6
	if addr.Is4() {
		prefix = p.v4
	}
	// Below the first index this wraps around, to far beyond the last name.
	i := low64(addr) - low64(prefix.Addr()) - firstIndex
	p.mu.RLock()
	defer p.mu.RUnlock()
	if i >= uint64(len(p.hosts)) || nth(prefix, int(i)) != addr {
		return "", false
	}
	return p.hosts[i], true
}

// Contains reports whether an address is of the synthetic prefixes. One that is,
// and has no Host, is stale or was made up; it is never a literal target.
func (p *Pool) Contains(addr netip.Addr) bool {
	addr = addr.Unmap()
	return p.v4.Contains(addr) || p.v6.Contains(addr)
}

// nth returns the address of the name with index i.
func nth(prefix netip.Prefix, i int) netip.Addr {
	n := uint64(i) + firstIndex
	if prefix.Addr().Is4() {
		b := prefix.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := prefix.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+n)
	return netip.AddrFrom16(b)
}

func low64(addr netip.Addr) uint64 {
	if addr.Is4() {
		b := addr.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := addr.As16()
	return binary.BigEndian.Uint64(b[8:])
}
