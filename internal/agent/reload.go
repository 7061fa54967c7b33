package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
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
// What they say is taken whole or not at all: where it is no policy, the present
// one stays, and a record and the log tell why.
func (sb *Sandbox) FollowPolicy(feed PolicyFeed) {
	ctx := sb.context
	changes := make(chan reading)
	sb.service("policy", func() error {
		hand := func(content source.Content, err error) {
			select {
			case changes <- reading{content, err}:
			case <-ctx.Done():
			}
		}
		return feed.Set.Watch(ctx, feed.Now, hand, func(err error) { sb.agent.cfg.Log.Warn(err.Error(), "sandbox", sb.Name()) })
	})
	sb.service("policy", func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case r := <-changes:
				sb.take(ctx, feed.Set, r)
			case <-feed.Reload:
				content, err := feed.Set.Read()
				sb.take(ctx, feed.Set, reading{content, err})
			}
		}
	})
}

// reading is what came of reading the sources.
type reading struct {
	content source.Content
	err     error
}

// take makes what was read the next generation, or says why not.
func (sb *Sandbox) take(ctx context.Context, set source.Set, r reading) {
	err := r.err
	if err == nil {
		err = sb.mayChange(set)
	}
	var p *policy.Policy
	var warnings []policy.Warning
	if err == nil {
		p, warnings, err = r.content.Load()
	}
	before := sb.keeper.engine.Policy()
	if err == nil {
		err = sb.SetPolicy(ctx, p)
	}
	log := sb.agent.cfg.Log.With("sandbox", sb.Name(), "generation", sb.keeper.engine.Generation())
	record := &flow.Record{
		Time: time.Now(), Sandbox: sb.Name(), Engine: flow.EnginePolicy, Mode: flow.ModePolicy,
		Verdict: flow.Allow, Reason: flow.ReasonPolicyLoaded, Generation: sb.keeper.engine.Generation(),
	}
	if err != nil {
		record.Verdict, record.Reason = flow.Deny, flow.ReasonPolicyRefused
		record.Detail = bounded(err.Error())
		record.Hint = "the policy of before stays in force; ringfence policy check tells what is wrong"
		log.Error("the changed policy is refused, the one of before stays", "error", record.Detail)
	} else {
		for _, w := range warnings {
			log.Warn(w.String())
		}
		if !sameUser(before, p) {
			log.Warn("the policy names another user: what runs keeps its own")
		}
		log.Info("a new policy is in force")
	}
	sb.agent.cfg.Sink.Emit(record)
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
	return sb.keeper.replace(ctx, p)
}

// Why a source is not read again.
var (
	errOwnPolicy = errors.New("the sandbox's own user can change it, and so its own policy")
	errUnclean   = errors.New("a path with .. is not read again; write it without")
)

// mayChange refuses sources that a program of the sandbox could have written.
func (sb *Sandbox) mayChange(set source.Set) error {
	dir, err := os.Open("/")
	if err != nil {
		return fmt.Errorf("look at policy files: %w", err)
	}
	defer dir.Close()
	root := rootfs.New(dir)
	files, err := set.Files()
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := onlyRootWrites(root, file, sb.keeper.user); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

func onlyRootWrites(root *rootfs.Root, file string, user rootfs.User) error {
	if slices.Contains(strings.Split(file, "/"), "..") {
		return errUnclean // behind a link it leads elsewhere than it reads
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	link, err := root.Follow(path, user, nil)
	switch {
	case errors.Is(err, rootfs.ErrNotFile): // the directory of modules: each of them is looked at
		return nil
	case err != nil:
		return err
	case link.Writable:
		return fmt.Errorf("%w; move it to where only root writes", errOwnPolicy)
	}
	return nil
}
