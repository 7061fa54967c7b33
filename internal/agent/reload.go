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
	log := sb.agent.cfg.Log.With("sandbox", sb.Name())
	if err := sb.mayChange(feed.Set); err != nil {
		log.Warn("the policy will not be read again", "reason", err)
	}
	changes := make(chan reading)
	sb.service("policy watch", func() error {
		hand := func(content source.Content, err error) {
			select {
			case changes <- reading{content, err}:
			case <-sb.context.Done():
			}
		}
		return feed.Set.Watch(sb.context, feed.Now, hand, func(err error) { log.Warn(err.Error()) })
	})
	sb.service("policy", func() error {
		for {
			select {
			case <-sb.context.Done():
				return nil
			case r := <-changes:
				sb.take(sb.context, feed.Set, r)
			case <-feed.Reload:
				select {
				case <-changes: // older than what is read now
				default:
				}
				content, err := feed.Set.Read()
				sb.take(sb.context, feed.Set, reading{content, err})
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
	before := sb.keeper.engine.Policy()
	p, warnings, err := sb.load(set, r)
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
		record.Hint = "the policy of before stays in force"
		if _, faulty := errors.AsType[policy.LoadError](err); faulty {
			record.Hint += "; ringfence policy check tells everything that is wrong"
		}
		log.Error("the policy that was read is refused, the one of before stays", "error", record.Detail)
	} else {
		policy.TellWarnings(warnings, func(text string) { log.Warn(text) })
		if !sameUser(before, p) {
			log.Warn("the policy names another user: what runs keeps its own")
		}
		log.Info("the policy was read and is in force")
	}
	sb.agent.cfg.Sink.Emit(record)
}

// load makes a policy of what was read, if it may be one.
func (sb *Sandbox) load(set source.Set, r reading) (*policy.Policy, []policy.Warning, error) {
	if r.err != nil {
		return nil, nil, r.err
	}
	if err := sb.mayChange(set); err != nil {
		return nil, nil, err
	}
	return r.content.Load()
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
