package relay

import (
	"context"
	"errors"
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxDecisions bounds how often a decision is repeated because the policy was
// reloaded meanwhile.
const maxDecisions = 8

// The steps of a connection. Each returns why it refuses, or nil.

// attributeFor finds out which program connected, and for what. An origin for the
// other listener is none.
func (c *conn) attributeFor(proxy bool) (flow.Origin, *flow.Denial) {
	origin, refused := c.attribute()
	if refused == nil && origin.Proxy != proxy {
		refused = noOrigin("the origin is of the other listener")
	}
	return origin, refused
}

// attribute takes the origin and identifies its exec, and notes both in the
// record. Whatever is wrong with an origin that was taken, its exec is asked for:
// that is what gives back the origin's hold on it.
func (c *conn) attribute() (flow.Origin, *flow.Denial) {
	origin, err := c.relay.cfg.Origins.Take(c.remote)
	if err != nil {
		return origin, noOrigin(err.Error())
	}
	c.record.PID, c.record.UID, c.record.ExecID = origin.Exec.TGID, origin.UID, origin.Exec.String()
	aimless := !origin.Destination.Addr().IsValid() || origin.Destination.Port() == 0
	if !origin.Proxy && !aimless {
		c.record.SetTarget(flow.AddrTarget(origin.Destination))
	}
	id, err := c.relay.cfg.Identities.Identify(origin.Exec)
	if err == nil && id == nil {
		err = errors.New("unknown exec id")
	}
	if err != nil {
		return origin, &flow.Denial{Engine: flow.EngineIdentity, Reason: flow.ReasonNoIdentity, Detail: err.Error()}
	}
	c.know(id)
	if aimless {
		return origin, noOrigin("origin without a destination")
	}
	return origin, nil
}

func noOrigin(detail string) *flow.Denial {
	return &flow.Denial{Engine: flow.EngineIdentity, Reason: flow.ReasonNoOrigin, Detail: detail}
}

// open takes the connection from what was asked for to an upstream that it has
// joined.
func (c *conn) open(asked flow.Target) *flow.Denial {
	target, refused := c.aim(asked)
	if refused != nil {
		return refused
	}
	decision, refused := c.decide(target)
	if refused != nil {
		return refused
	}
	return c.dial(target, decision)
}

// aim turns a synthetic address into the name that it stands for.
func (c *conn) aim(asked flow.Target) (flow.Target, *flow.Denial) {
	c.record.SetTarget(asked)
	if !asked.Addr.IsValid() || !c.relay.cfg.Names.Contains(asked.Addr) {
		return asked, nil
	}
	host, ok := c.relay.cfg.Names.Host(asked.Addr)
	if !ok {
		return asked, &flow.Denial{Engine: flow.EngineDNS, Reason: flow.ReasonStaleAddress, Detail: "a synthetic address that stands for no name"}
	}
	target := flow.Target{Host: host, Port: asked.Port}
	c.record.SetTarget(target)
	return target, nil
}

// decide asks for the decision and makes it the connection's. A reload between
// the answer and the moment when Redecide can see it would leave the connection
// on the old policy for good: hence the epoch, which Redecide moves on first.
func (c *conn) decide(target flow.Target) (*flow.Decision, *flow.Denial) {
	awaited := false
	for range maxDecisions {
		epoch := c.relay.epoch.Load()
		d := c.relay.cfg.Decider.Decide(c.identity, target)
		if d != nil && d.Reason.TurnsOnHash() && !awaited {
			c.awaitFiles()
			awaited = true
			continue
		}
		if d == nil {
			return nil, &flow.Denial{Engine: flow.EngineRelay, Reason: flow.ReasonPolicyError, Detail: "no decision"}
		}
		c.mu.Lock()
		c.target, c.decision = target, d
		c.mu.Unlock()
		c.record.SetDecision(d)
		if c.relay.epoch.Load() == epoch {
			return d, refusedBy(d)
		}
	}
	return nil, &flow.Denial{Engine: flow.EngineRelay, Reason: flow.ReasonPolicyError, Detail: "the policy does not come to rest"}
}

// awaitFiles waits until what the program and its ancestors are made of is known.
// The time is the relay's, and ends with it.
func (c *conn) awaitFiles() {
	ctx, cancel := context.WithTimeout(c.relay.alive, c.relay.cfg.FileTimeout)
	defer cancel()
	c.know(c.relay.cfg.Identities.Await(ctx, c.identity))
}

// know makes an identity the connection's. The user stays the one who connected,
// who need not be that of the exec.
func (c *conn) know(id *flow.Identity) {
	c.mu.Lock()
	c.identity = id
	c.mu.Unlock()
	uid := c.record.UID
	c.record.SetIdentity(id)
	c.record.UID = uid
}

// refusedBy returns the denial that a decision is, or nil. Requests that must be
// inspected are not passed on uninspected.
func refusedBy(d *flow.Decision) *flow.Denial {
	switch {
	case !d.Verdict.Passes():
		return &flow.Denial{Engine: d.Engine, Reason: d.Reason}
	case d.Inspect:
		return &flow.Denial{Engine: flow.EngineRelay, Reason: flow.ReasonInspectionUnavailable}
	}
	return nil
}

// redecide asks again, and cuts the connection where the answer is no, or no
// longer covers the address that was dialled. It runs beside the handler. Where the
// answer turns on files that were not read yet, await is called instead, if there is
// one.
func (c *conn) redecide(await func(*flow.Identity)) bool {
	c.mu.Lock()
	undecided, target, over, id := c.decision == nil, c.target, c.ended != nil, c.identity
	c.mu.Unlock()
	if undecided || over {
		return false // nothing decided yet, or nothing left to end
	}
	id = c.relay.cfg.Identities.Renew(id)
	now := c.relay.cfg.Decider.Decide(id, target)
	if now != nil && now.Reason.TurnsOnHash() && await != nil {
		await(id)
		return false
	}
	if now == nil {
		now = &flow.Decision{Engine: flow.EngineRelay, Reason: flow.ReasonPolicyError}
	}
	refused := refusedBy(now)
	c.mu.Lock()
	c.decision = now
	if refused == nil && c.uncovered() {
		refused = uncovered()
	}
	c.mu.Unlock()
	if refused == nil {
		return false
	}
	c.cut(redecided(now, refused))
	return true
}

func uncovered() *flow.Denial {
	return &flow.Denial{Engine: flow.EngineSSRF, Reason: flow.ReasonPrivateAddress}
}

func covers(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// dial connects to the target. The time is the relay's, and ends with it.
func (c *conn) dial(target flow.Target, decision *flow.Decision) *flow.Denial {
	ctx, cancel := context.WithTimeout(c.relay.alive, c.relay.cfg.DialTimeout)
	defer cancel()
	upstream, err := c.relay.cfg.Dialer.Dial(ctx, target, decision)
	if err != nil {
		if refused, ok := errors.AsType[*flow.Denial](err); ok {
			return refused
		}
		return &flow.Denial{Engine: flow.EngineRelay, Reason: flow.ReasonUpstreamUnreachable, Detail: err.Error()}
	}
	c.record.Address = remoteAddr(upstream).String()
	return c.join(upstream, decision)
}
