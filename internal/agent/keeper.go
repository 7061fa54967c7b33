package agent

import (
	"context"
	"fmt"
	"log/slog"
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
	// maxLinkPaths bounds what one policy may have followed.
	maxLinkPaths = 4096
)

// keeper keeps a sandbox's engine on one policy, and on where the symbolic links
// that the policy names lead in the sandbox.
type keeper struct {
	engine *policy.Engine
	root   *rootfs.Root
	user   rootfs.User
	log    *slog.Logger
	// applied is called after each new generation.
	applied func()

	mu    sync.Mutex // held while the next generation is made
	links []policy.Link
	// renewed says that there are other paths to watch.
	renewed chan struct{}
}

func newKeeper(engine *policy.Engine, root *rootfs.Root, user rootfs.User, log *slog.Logger) *keeper {
	return &keeper{engine: engine, root: root, user: user, log: log, applied: func() {}, renewed: make(chan struct{}, 1)}
}

// replace makes a policy the next generation, with its links: a policy without
// them would for a moment deny what it allows.
func (k *keeper) replace(ctx context.Context, p *policy.Policy) error {
	k.mu.Lock()
	links := k.follow(p, nil)
	err := k.engine.Replace(ctx, p, links)
	if err == nil {
		k.links = links
	}
	k.mu.Unlock()
	if err != nil {
		return err
	}
	k.applied()
	select {
	case k.renewed <- struct{}{}:
	default: // is to be looked at anyway
	}
	return nil
}

// relink makes another generation where links lead elsewhere than before. A
// watcher is told which directories decide that, before they are looked into.
func (k *keeper) relink(ctx context.Context, w *watch.Watcher) error {
	k.mu.Lock()
	p := k.engine.Policy()
	links := k.follow(p, w)
	changed := !slices.Equal(links, k.links)
	var err error
	if changed {
		if err = k.engine.Replace(ctx, p, links); err == nil {
			k.links = links
		}
	}
	k.mu.Unlock()
	if changed && err == nil {
		k.applied()
	}
	return err
}

// follow returns where the policy's paths lead, and has a watcher told of changes.
func (k *keeper) follow(p *policy.Policy, w *watch.Watcher) []policy.Link {
	if n := len(p.ExactPaths()); n > maxLinkPaths {
		k.log.Warn("the policy names more programs than are looked up: the rest match by their own path only",
			"programs", n, "looked up", maxLinkPaths)
	}
	var failed error
	links := FollowLinks(p, k.root, k.user, func(dir int) {
		if w == nil {
			return
		}
		if err := w.Add("/proc/self/fd/" + strconv.Itoa(dir)); err != nil {
			failed = err
		}
	})
	if failed != nil {
		k.log.Warn("links that the policy names are looked up, but not all changes of them are seen", "error", failed)
	}
	return links
}

// FollowLinks returns the paths of a policy that are symbolic links below a root,
// with where they lead and whether a user could change that. The root's
// directories are visited before they are looked into.
func FollowLinks(p *policy.Policy, root *rootfs.Root, user rootfs.User, visit func(dir int)) []policy.Link {
	paths := p.ExactPaths()
	var links []policy.Link
	for _, path := range paths[:min(len(paths), maxLinkPaths)] {
		link, err := root.Follow(path, user, visit)
		if err == nil && link.Target != path {
			links = append(links, policy.Link{Path: path, Target: link.Target, Writable: link.Writable})
		}
	}
	policy.SortLinks(links)
	return links
}

// watch follows the links again whenever they may have changed, until ctx ends.
func (k *keeper) watch(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := k.round(ctx); err != nil && ctx.Err() == nil {
			// What was known stays; a link that is re-pointed meanwhile keeps its old
			// meaning until the next look.
			k.log.Warn("changes of links are not told: looking every now and then", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(linkPoll):
			}
		}
	}
	return nil
}

// round looks once, and waits until there is a reason to look again.
func (k *keeper) round(ctx context.Context) error {
	w, err := watch.New()
	if err != nil {
		return fmt.Errorf("watch links: %w", k.orRelink(ctx, err))
	}
	defer w.Close()
	if err := k.relink(ctx, w); err != nil {
		return fmt.Errorf("follow links: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-k.renewed:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := w.Wait(ctx, linkQuiet); err != nil && ctx.Err() == nil {
		return fmt.Errorf("watch links: %w", err)
	}
	return nil
}

// orRelink looks without a watcher; it returns the reason why there is none.
func (k *keeper) orRelink(ctx context.Context, reason error) error {
	if err := k.relink(ctx, nil); err != nil {
		return err
	}
	return reason
}
