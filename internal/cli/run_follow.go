package cli

import (
	"context"
	"log/slog"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
)

// follow calls set with a policy's sources whenever they have come to say something
// else, until ctx ends. Like an agent, it takes what only root can have written.
func follow(ctx context.Context, feed agent.PolicyFeed, log *slog.Logger, set func(*ringfencev1.PolicySource)) {
	guard := source.NewGuard(feed.Set)
	now := guard.Read()
	if now.Err != nil {
		log.Warn("the policy will not be read again", "reason", now.Err)
	} else {
		now = source.Reading{Content: feed.Now} // what has changed since is told
	}
	changes, ended := make(chan source.Reading), make(chan struct{})
	defer func() { <-ended }()
	go func() {
		defer close(ended)
		hand := func(r source.Reading) {
			select {
			case changes <- r:
			case <-ctx.Done():
			}
		}
		if err := feed.Set.Watch(ctx, now, guard.Read, hand, func(err error) { log.Warn(err.Error()) }); err != nil {
			log.Warn("the policy will not be read again", "reason", err)
		}
	}()
	for {
		var next source.Reading
		select {
		case <-ctx.Done():
			return
		case next = <-changes:
		case <-feed.Reload:
			next = guard.Read()
		}
		take(next, log, set)
	}
}

func take(r source.Reading, log *slog.Logger, set func(*ringfencev1.PolicySource)) {
	err := r.Err
	var warnings []policy.Warning
	if err == nil {
		_, warnings, err = r.Content.Load()
	}
	if err != nil {
		log.Error("the policy that was read is refused, the one of before stays", "error", err)
		return
	}
	policy.TellWarnings(warnings, func(text string) { log.Warn(text) })
	set(sourceOf(r.Content))
}
