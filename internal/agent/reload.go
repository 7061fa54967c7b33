package agent

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
)

// maxRefusal bounds what a record says of a policy that was refused, in bytes.
const maxRefusal = 2048

// PolicyFeed says where a sandbox's policy comes from.
type PolicyFeed struct {
	Set source.Set
	// Now is what the policy in force was read from.
	Now source.Content
	// Reload asks to read again at once, changed or not.
	Reload <-chan struct{}
}

// FollowPolicy keeps the sandbox on what its policy's sources say, until its end.
// What they say is taken whole or not at all: where it is no policy, or where
// others than root could have written it, the present one stays, and a record and
// the log tell why.
func (sb *Sandbox) FollowPolicy(feed PolicyFeed) {
	log := sb.agent.cfg.Log.With("sandbox", sb.Name())
	guard := source.NewGuard(feed.Set)
	now := guard.Read()
	if now.Err != nil {
		log.Warn("the policy will not be read again", "reason", now.Err)
	} else {
		now = source.Reading{Content: feed.Now} // what has changed since is told
	}
	changes := make(chan source.Reading)
	sb.service("policy watch", func() error {
		hand := func(r source.Reading) {
			select {
			case changes <- r:
			case <-sb.context.Done():
			}
		}
		return feed.Set.Watch(sb.context, now, guard.Read, hand, func(err error) { log.Warn(err.Error()) })
	})
	sb.service("policy", func() error {
		for {
			select {
			case <-sb.context.Done():
				return nil
			case r := <-changes:
				sb.take(sb.context, r)
			case <-feed.Reload:
				select {
				case <-changes: // older than what is read now
				default:
				}
				sb.take(sb.context, guard.Read())
			}
		}
	})
}

// take makes what was read the next generation, or says why not.
func (sb *Sandbox) take(ctx context.Context, r source.Reading) {
	before := sb.keeper.engine.Policy()
	p, warnings, err := load(r)
	generation := sb.keeper.engine.Generation()
	if err == nil {
		generation, err = sb.keeper.replace(ctx, p)
	}
	log := sb.agent.cfg.Log.With("sandbox", sb.Name(), "generation", generation)
	record := &flow.Record{
		Time: time.Now(), Sandbox: sb.Name(), Engine: flow.EnginePolicy, Mode: flow.ModePolicy,
		Verdict: flow.Allow, Reason: flow.ReasonPolicyLoaded, Generation: generation,
	}
	if err != nil {
		record.Verdict, record.Reason = flow.Deny, flow.ReasonPolicyRefused
		record.Detail = bounded(err.Error())
		record.Hint = "the policy of before stays in force" + refusalHint(err)
		log.Error("the policy that was read is refused, the one of before stays", "error", record.Detail)
	} else {
		policy.TellWarnings(warnings, func(text string) { log.Warn(text) })
		if !sameUser(before, p) {
			log.Warn("the policy names another user: what runs keeps its own")
		}
		if !p.SameFiles(before) {
			log.Warn("the policy names other files (filesystem_policy, landlock): this sandbox keeps those that it was started with")
		}
		log.Info("the policy was read and is in force")
	}
	sb.agent.cfg.Sink.Emit(record)
}

func load(r source.Reading) (*policy.Policy, []policy.Warning, error) {
	if r.Err != nil {
		return nil, nil, r.Err
	}
	return r.Content.Load()
}

// refusalHint says what to do about a policy that was refused.
func refusalHint(err error) string {
	if _, faulty := errors.AsType[policy.LoadError](err); faulty {
		return "; ringfence policy check tells everything that is wrong"
	}
	if hinted, ok := errors.AsType[*source.Error](err); ok && hinted.Hint != "" {
		return "; " + hinted.Hint
	}
	return ""
}

func sameUser(a, b *policy.Policy) bool {
	user, group := a.Process()
	otherUser, otherGroup := b.Process()
	return user == otherUser && group == otherGroup
}

func bounded(text string) string {
	if len(text) <= maxRefusal {
		return text
	}
	return strings.ToValidUTF8(text[:maxRefusal], "") + "…"
}

// SetPolicy makes a policy the sandbox's next generation. Open connections are
// decided again, and those that are now denied are closed, before it returns.
func (sb *Sandbox) SetPolicy(ctx context.Context, p *policy.Policy) error {
	_, err := sb.keeper.replace(ctx, p)
	return err
}
