package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/watch"
)

const (
	// linkQuiet is how long nothing must change before links are followed again. It
	// is short: a program may be started as soon as the link to it is there.
	linkQuiet = 20 * time.Millisecond
	// linkPoll is how often links are followed where changes are not told.
	linkPoll = 2 * time.Second
)

// keeper keeps a sandbox's engine on one policy, and on where the symbolic links
// that the policy names lead in the sandbox.
type keeper struct {
	engine *policy.Engine
	root   *rootfs.Root
	user   rootfs.User
	log    *slog.Logger
	// watches is the agent's, for all of its sandboxes.
	watches *watch.Hub
	// applied is called after each new generation.
	applied func()

	mu     sync.Mutex // held while the next generation is made
	links  []policy.Link
	warned map[string]bool // what the log says once
	// renewed says that there are other paths to watch.
	renewed chan struct{}
}

func newKeeper(engine *policy.Engine, root *rootfs.Root, user rootfs.User, watches *watch.Hub, log *slog.Logger) *keeper {
	return &keeper{
		engine: engine, root: root, user: user, log: log, watches: watches,
		applied: func() {}, renewed: make(chan struct{}, 1), warned: map[string]bool{},
	}
}

// replace makes a policy the next generation, with its links: a policy without
// them would for a moment deny what it allows. It returns the generation's number.
func (k *keeper) replace(ctx context.Context, p *policy.Policy) (generation uint64, err error) {
	k.mu.Lock()
	clear(k.warned) // they were of another policy
	links, _ := k.follow(p, nil)
	if err = k.engine.Replace(ctx, p, links); err == nil {
		k.links = links
	}
	generation = k.engine.Generation()
	k.mu.Unlock()
	if err != nil {
		return generation, err
	}
	k.applied()
	select {
	case k.renewed <- struct{}{}:
	default: // is to be looked at anyway
	}
	return generation, nil
}

// relink makes another generation where links lead elsewhere than before. A
// watcher is told which directories decide that, before they are looked into; it
// reports whether the watcher took all of them.
func (k *keeper) relink(ctx context.Context, w *watch.Watcher) (watched bool, err error) {
	k.mu.Lock()
	p := k.engine.Policy()
	links, watched := k.follow(p, w)
	changed := !slices.Equal(links, k.links)
	if changed {
		if err = k.engine.Replace(ctx, p, links); err == nil {
			k.links = links
		}
	}
	k.mu.Unlock()
	if changed && err == nil {
		k.applied()
	}
	return watched, err
}

// follow returns where the policy's paths lead, and has a watcher, if there is
// one, told of changes. The caller holds mu.
func (k *keeper) follow(p *policy.Policy, w *watch.Watcher) (links []policy.Link, watched bool) {
	if n := len(p.ExactPaths()); n > maxLinkPaths {
		k.warn("the policy names more programs than are looked up: the rest match by their own path only",
			"programs", n, "looked up", maxLinkPaths)
	}
	var failed error
	links, whole := FollowLinks(p, k.root, k.user, func(dir int) {
		if w == nil {
			return
		}
		if err := w.Add("/proc/self/fd/" + strconv.Itoa(dir)); err != nil {
			failed = err
		}
	})
	if !whole {
		k.warn("not all links that the policy names can be looked up in time: those that are left match by their own path only")
	}
	if failed != nil {
		k.warn("not all links that the policy names can be watched: looking every now and then", "error", failed)
	}
	return links, whole && failed == nil
}

// warn tells a thing once for each policy: it may be found at every look. The
// caller holds mu.
func (k *keeper) warn(message string, args ...any) {
	if !k.warned[message] {
		k.warned[message] = true
		k.log.Warn(message, args...)
	}
}

// watch follows the links again whenever they may have changed, until ctx ends.
func (k *keeper) watch(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := k.round(ctx); err != nil && ctx.Err() == nil {
			// What was known stays.
			k.log.Error("links that the policy names are not followed", "error", err)
			k.pause(ctx, linkPoll)
		}
	}
	return nil
}

// round looks once, and waits until there is a reason to look again.
func (k *keeper) round(ctx context.Context) error {
	w := k.watches.New()
	defer w.Close()
	start := time.Now()
	watched, err := k.relink(ctx, w)
	if err != nil {
		return err
	}
	// A sandbox can change what is watched all the time: looking takes at most a
	// fifth of a processor's.
	took := min(time.Since(start), linkPoll)
	defer k.pause(ctx, 4*took)
	patience := time.Duration(math.MaxInt64)
	if !watched {
		patience = linkPoll
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		k.pause(ctx, patience)
		cancel()
	}()
	if err := w.Wait(ctx, linkQuiet); err != nil && ctx.Err() == nil {
		return fmt.Errorf("watch links: %w", err)
	}
	return nil
}

// pause waits until there are other paths to watch, the time is over, or ctx ends.
func (k *keeper) pause(ctx context.Context, atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-k.renewed:
	case <-timer.C:
	case <-ctx.Done():
	}
}
