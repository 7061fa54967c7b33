package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/datapath"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/sandbox"
)

const (
	// atOnceMost bounds what is done for many sandboxes at a time.
	atOnceMost = 16
	// untoldAfter is how long rejections of before are read one by one until the rest
	// of them, which the hooks only counted, is told in one line.
	untoldAfter = time.Second
)

// openHooks attaches the hooks, or adopts those of an agent before.
func (a *Agent) openHooks(ctx context.Context) error {
	cfg := datapath.Config{
		Parent: a.parent.Path(), ParentID: a.parent.ID(), PinDir: a.instance.pinDir(),
		MaxSandboxes: a.cfg.MaxSandboxes,
	}
	if !a.instance.named {
		a.settle()
		dp, err := datapath.Load(cfg)
		a.datapath = dp
		return err
	}
	dp, opening, err := datapath.Open(cfg)
	if errors.Is(err, datapath.ErrIncomplete) || errors.Is(err, datapath.ErrForeign) {
		// They fence nothing that could be served: their sandboxes go with them.
		a.cfg.Log.Error("what another agent has left cannot be adopted: its sandboxes are ended", "error", err)
		if err := a.clear(ctx); err != nil {
			return err
		}
		dp, opening, err = datapath.Open(cfg)
	}
	if err != nil {
		return err
	}
	a.datapath, a.opened = dp, string(opening.How)
	a.tellOpening(opening)
	if a.inherits = opening.How != datapath.Fresh; !a.inherits {
		a.settle()
	}
	return a.keepTold()
}

// keepTold has the counts of rejections that were of no sandbox outlive this agent.
func (a *Agent) keepTold() (err error) {
	if a.counts, err = os.OpenFile(filepath.Join(a.instance.dir, "told"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fmt.Errorf("open counts: %w", err)
	}
	if a.inherits {
		a.told.recall(readCounts(a.counts))
	} else if err := writeCounts(a.counts, nil); err != nil {
		return err
	}
	a.told.keep = func(counts map[flow.Reason]uint64) error { return writeCounts(a.counts, counts) }
	return nil
}

// tellOpening says how the hooks were started, and what that cost the sandboxes.
func (a *Agent) tellOpening(o datapath.Opening) {
	log := a.cfg.Log
	log.Info("the hooks are there", "how", string(o.How), "connections ended", o.Released, "programs ended", o.Ended,
		"frozen", o.Frozen.Round(time.Millisecond), "recovered", o.Recovered)
	if o.NotFrozen {
		log.Warn("not all programs stood still while the hooks were replaced: those that were started meanwhile match no policy")
	}
	for _, m := range o.Maps {
		log.Debug("a map of the hooks", "map", m)
	}
}

// Hooks tells how the hooks were started: fresh, adopted or migrated.
func (a *Agent) Hooks() string { return a.opened }

// Stats returns what the hooks counted for the sandbox.
func (sb *Sandbox) Stats() (datapath.Stats, error) { return sb.agent.datapath.Stats(sb.CgroupID()) }

// clear ends all that lives in the instance's cgroup, and removes its hooks after that.
func (a *Agent) clear(ctx context.Context) error {
	if err := a.parent.Kill(ctx); err != nil {
		return err
	}
	names, err := a.children()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := removeCgroup(filepath.Join(a.parent.Path(), name)); err != nil {
			return err
		}
	}
	return datapath.Unpin(a.instance.pinDir())
}

// children returns the names of the cgroups of sandboxes.
func (a *Agent) children() ([]string, error) {
	entries, err := os.ReadDir(a.parent.Path())
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// AdoptSandbox takes over a sandbox that another agent of this instance has left, and
// serves it: what runs there goes on, and may connect again once this returns. State is
// what Sandbox.State has said of it; Engine decides from now on, on whatever policy it
// has.
//
// The error is sandbox.ErrLost where there is nothing to adopt, or not that sandbox:
// all that there was of it is removed then, and it may be created anew. After another
// error it is as it was, fenced and without an answer, and may be tried again. It may
// be called for many sandboxes at once.
func (a *Agent) AdoptSandbox(ctx context.Context, cfg SandboxConfig, state sandbox.State) (_ *Sandbox, err error) {
	a.coming.RLock()
	defer a.coming.RUnlock()
	sb := &Sandbox{agent: a, adopted: true}
	parts := a.parts(cfg)
	err = sb.adopt(ctx, cfg, parts, state)
	if errors.Is(err, sandbox.ErrLost) {
		err = errors.Join(err, sandbox.Remove(context.WithoutCancel(ctx), parts, state.CgroupID))
	}
	if err != nil {
		return nil, err
	}
	return sb, nil
}

func (sb *Sandbox) adopt(ctx context.Context, cfg SandboxConfig, parts sandbox.Config, state sandbox.State) (err error) {
	if sb.Sandbox, err = sandbox.Adopt(ctx, parts, state); err != nil {
		return err
	}
	var before *recollection
	if sb.memory, before, err = recall(sb.Memory()); err == nil {
		err = sb.start(ctx, cfg, before)
	}
	if err != nil {
		return errors.Join(err, sb.Sandbox.Detach())
	}
	return nil
}

// RemoveSandbox removes what there is of a sandbox that this agent does not serve: one
// that could not be adopted, or not be closed. What is missing of it is no error.
func (a *Agent) RemoveSandbox(ctx context.Context, name string, state sandbox.State) error {
	a.coming.RLock()
	defer a.coming.RUnlock()
	return sandbox.Remove(ctx, a.parts(SandboxConfig{Name: name}), state.CgroupID)
}

// RemoveUnclaimed removes the sandboxes of agents before that were neither adopted nor
// are among claimed, with all that the hooks know of them. It is called when all were
// adopted that are to be; claimed are those that shall be tried again later. From then
// on what the hooks tell is recorded.
func (a *Agent) RemoveUnclaimed(ctx context.Context, claimed []string) error {
	a.coming.Lock()
	defer a.coming.Unlock()
	keep := map[string]bool{}
	for _, name := range claimed {
		keep[name] = true
	}
	for _, sb := range a.all() {
		keep[sb.Name()] = true
	}
	names, err := a.children()
	names = slices.DeleteFunc(names, func(name string) bool { return keep[name] })
	removed := atOnce(names, func(name string) error {
		err := sandbox.Remove(ctx, a.parts(SandboxConfig{Name: name}))
		if err == nil {
			a.cfg.Log.Info("removed a sandbox that nobody knows", "sandbox", name)
		}
		return err
	})
	stray := a.removeStray(keep)
	a.settle()
	return errors.Join(err, removed, stray)
}

// removeStray removes anchors and entries in the hooks that belong to no cgroup.
func (a *Agent) removeStray(keep map[string]bool) error {
	living := map[uint64]bool{}
	names, err := a.children()
	if err != nil {
		return err
	}
	for _, name := range names {
		keep[name] = true // also what could not be removed
		group, err := cgroup.Open(filepath.Join(a.parent.Path(), name))
		if err != nil {
			return err
		}
		living[group.ID()] = true
		_ = group.Close()
	}
	known, err := a.datapath.Sandboxes()
	errs := []error{err}
	for _, sb := range known {
		if !living[sb.CgroupID] {
			errs = append(errs, a.datapath.RemoveSandbox(sb.CgroupID))
		}
	}
	if !a.instance.named {
		return errors.Join(errs...)
	}
	left, err := os.ReadDir(filepath.Join(a.instance.dir, anchors))
	errs = append(errs, err)
	for _, entry := range left {
		if !keep[entry.Name()] {
			errs = append(errs, os.Remove(a.instance.anchor(entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// settle has the hooks' reports read: it is known whose they are.
func (a *Agent) settle() { a.settledOnce.Do(func() { close(a.settled) }) }

func (a *Agent) awaitSettled(ctx context.Context) bool {
	select {
	case <-a.settled:
		return true
	case <-ctx.Done():
		return false
	}
}

// tellUntold tells in one line what the hooks refused while no agent was there, and
// only counted.
func (a *Agent) tellUntold(ctx context.Context) {
	if !a.awaitSettled(ctx) {
		return
	}
	timer := time.NewTimer(untoldAfter)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	for _, sb := range a.all() {
		if sb.adopted {
			sb.recordUntold()
		}
	}
}

// Detach ends the agent and leaves a named instance to its next agent: the sandboxes go
// on without the commands that this agent holds, the hooks refuse what they cannot
// attribute, and connections that are made meanwhile are refused, for nothing listens.
// An instance without a name is closed.
func (a *Agent) Detach() error {
	if a.instance == nil || !a.instance.named {
		return a.Close()
	}
	a.coming.Lock() // nothing is made or adopted any more
	defer a.coming.Unlock()
	all := a.all()
	errs := atOnce(all, (*Sandbox).detach)
	return errors.Join(errs, a.rest(), a.instance.unlock())
}

// atOnce does something for many, some of them at a time, and for all of them whatever
// comes of the others.
func atOnce[T any](all []T, do func(T) error) error {
	errs := make([]error, len(all))
	var group errgroup.Group
	group.SetLimit(atOnceMost)
	for i, one := range all {
		group.Go(func() error {
			errs[i] = do(one)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// detach ends the sandbox's services and leaves it to another agent.
func (sb *Sandbox) detach() error {
	if sb.closed.Swap(true) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	drained := sb.relay.Shutdown(ctx)
	sb.stop()
	sb.services.Wait()
	sb.agent.forget(sb.CgroupID())
	if err := errors.Join(drained, sb.Sandbox.Detach()); err != nil {
		return fmt.Errorf("leave sandbox %s: %w", sb.Name(), err)
	}
	return nil
}

// giveUp ends a start that failed: what it found stays.
func (a *Agent) giveUp() error {
	if a.instance != nil && a.instance.named && a.instance.found {
		return a.Detach()
	}
	return a.Close()
}
