package names

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	defaultDialTimeout = 10 * time.Second
	// attemptDelay is the lead of one address over the next (RFC 8305).
	attemptDelay = 250 * time.Millisecond
)

// Lookup finds the addresses of a canonical host. Resolver is one.
type Lookup interface {
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
}

// DialerConfig says how targets are reached.
type DialerConfig struct {
	Resolver Lookup
	// Trusted are special-purpose networks that the operator opens to every
	// endpoint.
	Trusted []netip.Prefix
	// Dial connects, in whatever network namespace it is meant for. It must
	// return soon after ctx ends. Nil: the agent's own namespace.
	Dial func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error)
	// Timeout bounds the whole of one Dial, 10 s where it is zero.
	Timeout time.Duration
}

// Dialer connects to targets that were allowed, at addresses that it has checked.
type Dialer struct {
	cfg DialerConfig
}

// NewDialer returns a dialer.
func NewDialer(cfg DialerConfig) *Dialer {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultDialTimeout
	}
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
			var dialer net.Dialer
			return dialer.DialTCP(ctx, "tcp", netip.AddrPort{}, addr)
		}
	}
	return &Dialer{cfg: cfg}
}

// Dial connects to a target that decision allows. A name is looked up now, once;
// what is dialled are the very addresses that were checked.
//
// One refused address refuses them all. To go on with the others would be as
// safe, but an answer that mixes public addresses with the inside is what a
// rebinding attack looks like, and is to be seen in the records.
//
// An error is a *flow.Denial.
func (d *Dialer) Dial(ctx context.Context, target flow.Target, decision *flow.Decision) (*net.TCPConn, error) {
	if decision == nil || !decision.Verdict.Passes() {
		return nil, &flow.Denial{Engine: flow.EngineRelay, Reason: flow.ReasonPolicyError, Detail: "dialled without being allowed"}
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	addrs := []netip.Addr{target.Addr}
	if !target.Addr.IsValid() {
		var err error
		addrs, err = d.cfg.Resolver.Resolve(ctx, target.Host)
		if err == nil && len(addrs) == 0 {
			err = ErrNoSuchHost
		}
		if err != nil {
			return nil, &flow.Denial{Engine: flow.EngineRelay, Reason: flow.ReasonResolveFailed, Detail: err.Error()}
		}
	}
	for _, addr := range addrs {
		if denial := d.check(addr, target, decision); denial != nil {
			return nil, denial
		}
	}
	conn, err := race(ctx, d.cfg.Dial, interleave(addrs, target.Port))
	if err != nil {
		return nil, &flow.Denial{
			Engine: flow.EngineRelay, Reason: flow.ReasonUpstreamUnreachable, Detail: err.Error(),
			Addr: netip.AddrPortFrom(addrs[0], target.Port),
		}
	}
	return conn, nil
}

// check judges one address; nil means that it may be dialled. What AllowedIPs or
// Trusted name is the address as it is dialled: 10.0.0.0/8 does not open the
// NAT64 form of 10.0.0.1.
func (d *Dialer) check(addr netip.Addr, target flow.Target, decision *flow.Decision) *flow.Denial {
	control := decision.Engine == flow.EngineControlPlane
	denial := &flow.Denial{Engine: flow.EngineSSRF, Addr: netip.AddrPortFrom(addr, target.Port)}
	switch flow.ClassOf(addr) {
	case flow.ClassPublic:
		return nil
	case flow.ClassSpecial:
		if control || contains(decision.AllowedIPs, addr) || contains(d.cfg.Trusted, addr) {
			return nil
		}
		denial.Reason = flow.ReasonPrivateAddress
		denial.Detail = fmt.Sprintf("%s is at %s, which neither allowed_ips nor a trusted network names", target, addr)
	default:
		// The operator may have a control plane on this host, and then says so
		// by address; a name must not lead here.
		if control && target.Addr == addr && addr.IsLoopback() {
			return nil
		}
		denial.Reason = flow.ReasonUnsafeAddress
		denial.Detail = fmt.Sprintf("%s is at %s, which is never dialled for a sandbox", target, addr)
	}
	return denial
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
