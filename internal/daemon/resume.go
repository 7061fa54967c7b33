package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/sandbox"
	"github.com/ringfence/ringfence/internal/store"
)

// adoptAgain is how long after a failure a sandbox that is still there is tried again.
const adoptAgain = 5 * time.Second

// restore reads the sandboxes of the store.
func (d *Daemon) restore() error {
	return d.store.Each(store.Sandboxes, "", func(item store.Item) error {
		var message pb.Sandbox
		var kept saved
		err := json.Unmarshal(item.Value, &kept)
		if err == nil {
			err = api.Decode(kept.Sandbox, &message)
		}
		if err != nil {
			return fmt.Errorf("read sandbox %s: %w", item.Key, err)
		}
		kept.Sandbox = nil
		b := newBox(&message)
		b.saved = kept
		if message.Status == nil {
			message.Status = &pb.SandboxStatus{}
		}
		message.Status.Phase = pb.SandboxStatus_CREATING
		d.fleet.mu.Lock()
		defer d.fleet.mu.Unlock()
		d.fleet.enter(b)
		return nil
	})
}

// resumeAll takes over the sandboxes of the store that are still there, removes what
// nobody knows, and has those made anew that are no more. It does not wait for the
// last: after a start of the machine there may be hundreds.
func (d *Daemon) resumeAll(ctx context.Context) error {
	d.dropEphemeral()
	boxes, _ := d.fleet.all()
	var mu sync.Mutex
	var lost []*box
	later := map[*box]error{}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(4 * runtime.GOMAXPROCS(0)) // most of it is waiting for the kernel
	for _, b := range boxes {
		group.Go(func() error {
			err := d.adopt(groupCtx, b)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				d.adopted++
			case errors.Is(err, sandbox.ErrLost):
				lost = append(lost, b)
			default:
				later[b] = err
			}
			return groupCtx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var names []string
	for b, why := range later {
		names = append(names, b.name)
		d.tasks.Go(func() { d.adoptLater(ctx, b, why) })
	}
	if err := d.agent.RemoveUnclaimed(ctx, names); err != nil {
		// It is fenced, and tried again at the next start.
		d.log.Error("what nobody knows is not all removed", "error", err)
	}
	d.tasks.Go(func() { d.remake(context.WithoutCancel(ctx), lost) })
	return nil
}

// adopt takes over one sandbox. The error is sandbox.ErrLost where there is none.
func (d *Daemon) adopt(ctx context.Context, b *box) error {
	b.turn.Lock()
	defer b.turn.Unlock()
	if d.fleet.find(b.name) != b {
		return nil // deleted meanwhile
	}
	_, _, saved := d.fleet.look(b)
	if saved.State == nil {
		return fmt.Errorf("its fence was never completed: %w", sandbox.ErrLost)
	}
	err := d.start(ctx, b, func(cfg agent.SandboxConfig) (*agent.Sandbox, error) {
		return d.agent.AdoptSandbox(ctx, cfg, *saved.State)
	})
	if err != nil {
		d.log.Warn("the sandbox is not adopted", "sandbox", b.name, "error", err)
	}
	return err
}

// adoptLater tries again to take over what is still there, and fenced.
func (d *Daemon) adoptLater(ctx context.Context, b *box, why error) {
	for {
		d.fleet.change(b, func(_ *box, next *pb.Sandbox) {
			next.Status.Reason = said("it is fenced, and the agent tries again to adopt it: " + why.Error())
		})
		select {
		case <-d.stopping:
			return
		case <-time.After(adoptAgain):
		}
		switch why = d.adopt(ctx, b); {
		case why == nil:
			return
		case errors.Is(why, sandbox.ErrLost):
			d.remake(ctx, []*box{b})
			return
		}
	}
}

// remake makes sandboxes anew.
func (d *Daemon) remake(ctx context.Context, lost []*box) {
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, b := range lost {
		group.Go(func() error {
			select {
			case <-d.stopping:
			default:
				d.remakeOne(ctx, b)
			}
			return nil
		})
	}
	_ = group.Wait()
}

func (d *Daemon) remakeOne(ctx context.Context, b *box) {
	b.turn.Lock()
	defer b.turn.Unlock()
	if d.fleet.find(b.name) != b {
		return // deleted meanwhile
	}
	d.log.Info("the sandbox is made anew", "sandbox", b.name)
	if err := d.start(ctx, b, nil); err != nil {
		d.log.Error("the sandbox cannot be made", "sandbox", b.name, "error", err)
		d.fleet.change(b, func(b *box, next *pb.Sandbox) {
			b.saved.State = nil
			next.Status.Phase, next.Status.Reason = pb.SandboxStatus_FAILED, said(err.Error())
		})
	}
}
