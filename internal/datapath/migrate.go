package datapath

import (
	"context"
	"errors"
	"time"

	"github.com/ringfence/ringfence/internal/cgroup"
)

// freezeWait bounds the wait for processes to stand still. One may sleep in the kernel
// where it cannot be woken; the others are not to wait for it.
const freezeWait = 500 * time.Millisecond

// freezer holds the sandboxes still while the hooks change.
type freezer struct {
	group  *cgroup.Group
	since  time.Time // zero: not frozen
	took   time.Duration
	failed bool
}

func (f *freezer) freeze() error {
	if !f.since.IsZero() {
		return nil
	}
	f.since = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), freezeWait)
	defer cancel()
	err := f.group.Freeze(ctx)
	if errors.Is(err, cgroup.ErrNotFrozen) {
		f.failed, err = true, nil
	}
	return err
}

func (f *freezer) thaw() error {
	if !f.since.IsZero() {
		f.took = time.Since(f.since)
	}
	return f.group.Thaw()
}

// migrate replaces the hooks of another build by this one's, and takes its maps over:
// those that are laid out alike are kept, the entries of the others are converted.
//
// The sandboxes are frozen meanwhile, so that nothing starts a program, connects or ends
// (but by being killed): that early, because without an agent they could only be
// refused, and would keep the processors from what they wait for. The new generation
// is made ready beside the old one, the entries are copied, the hooks changed, and only
// then it is published. Until that the old one is complete: cut short anywhere, by an
// error or a kill, it is enforced again, here or by the next start. In between each
// hook runs the old program or the new, and either refuses what its tables do not know.
func migrate(cfg Config, old generation, f *freezer, opening *Opening) (*Datapath, error) {
	dp := &Datapath{pinDir: cfg.PinDir, generation: old + 1}
	err := dp.migrate(cfg, old, f, opening)
	if err != nil {
		return nil, errors.Join(err, dp.Close(), undo(cfg, old))
	}
	opening.How = Migrated
	if err := retireOthers(cfg, dp.generation); err != nil {
		return nil, errors.Join(err, dp.Close())
	}
	return dp, nil
}

func (dp *Datapath) migrate(cfg Config, old generation, f *freezer, opening *Opening) error {
	if err := f.freeze(); err != nil {
		return err
	}
	obj, err := readObject(cfg)
	if err != nil {
		return err
	}
	contents, err := planEstate(obj.spec, old.dir(cfg.PinDir))
	if err != nil {
		return err
	}
	defer contents.Close()
	if err := dp.loadObjects(obj, contents.kept()); err != nil {
		return err
	}
	if err := dp.pinObjects(); err != nil {
		return err
	}
	if opening.Released, err = contents.settle(dp, !f.failed); err != nil {
		return err
	}
	opening.Maps = contents.reports()
	if err := dp.addUnknownState(); err != nil {
		return err
	}
	if err := enforce(cfg, dp.generation, dp.hooks()); err != nil {
		return err
	}
	if err := dp.openLinks(cfg.ParentID); err != nil {
		return err
	}
	if opening.Ended, err = dp.dropEnded(); err != nil {
		return err
	}
	return dp.about(cfg).publish(cfg.PinDir)
}

// undo leaves what was begun where it cannot enforce the old generation: the next start
// tries again.
func undo(cfg Config, old generation) error {
	if err := enforce(cfg, old, nil); err != nil {
		return err
	}
	return retireOthers(cfg, old)
}
