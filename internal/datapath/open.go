package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/cgroup"
)

// How says how a datapath was come by.
type How string

// The ways.
const (
	Fresh    How = "fresh"    // loaded and attached
	Adopted  How = "adopted"  // a predecessor's of the same object, as it was
	Migrated How = "migrated" // a predecessor's of another object: hooks replaced, contents kept
)

// Opening says what Open did.
type Opening struct {
	How How
	// Released is how many uses of exec records the predecessor held when it ended,
	// for connections that it had.
	Released int
	// Ended is how many processes ended while no hook saw it.
	Ended int
	// Recovered: a predecessor was killed while it took over from another build.
	Recovered bool
	// Frozen is how long the sandboxes stood still; NotFrozen: not all of them did.
	// What one of those started meanwhile has no identity, and is rejected.
	Frozen    time.Duration
	NotFrozen bool
	// Maps is what became of each map, where the hooks were replaced.
	Maps []MapReport
}

// An AdoptError is returned where there are pins which cannot be adopted. What is
// pinned is as it was and goes on to refuse what it cannot attribute. A caller that
// wants to start anew ends the processes in the parent cgroup and calls Unpin.
type AdoptError struct {
	PinDir string
	Err    error
}

// Error says why.
func (e *AdoptError) Error() string { return fmt.Sprintf("adopt hooks of %s: %v", e.PinDir, e.Err) }

// Unwrap returns why.
func (e *AdoptError) Unwrap() error { return e.Err }

// Why pins cannot be adopted.
var (
	// ErrIncomplete: a load did not come to its end, or pins were removed.
	ErrIncomplete = errors.New("pins are not complete")
	// ErrForeign: the pins are not of this parent cgroup, or not of a build that this
	// one knows.
	ErrForeign = errors.New("pins are of something else")
)

// Open adopts the hooks and maps that a dead agent left below the pin directory, with
// all that is in them, or loads new ones where it left none. Another build's are
// replaced: see migrate. There may be one datapath at a time; the caller sees to it
// that the predecessor is dead.
//
// An error is an *AdoptError where there is something that cannot be adopted. However
// it ends, no process of a sandbox stays frozen.
func Open(cfg Config) (_ *Datapath, _ Opening, err error) {
	if err := cfg.check(); err != nil {
		return nil, Opening{}, err
	}
	parent, err := cgroup.Open(cfg.Parent)
	if err != nil {
		return nil, Opening{}, fmt.Errorf("open hooks: %w", err)
	}
	defer parent.Close()
	f := freezer{group: parent}
	dp, opening, err := open(cfg, &f)
	// Always: who was killed with the sandboxes frozen could not.
	if thawErr := f.thaw(); thawErr != nil {
		if dp != nil {
			thawErr = errors.Join(thawErr, dp.Close())
		}
		return nil, opening, errors.Join(err, thawErr)
	}
	opening.Frozen, opening.NotFrozen = f.took, f.failed
	return dp, opening, err
}

func open(cfg Config, f *freezer) (*Datapath, Opening, error) {
	old, err := readAbout(cfg.PinDir)
	if errors.Is(err, fs.ErrNotExist) && isEmpty(cfg.PinDir) {
		dp, err := Load(cfg)
		return dp, Opening{How: Fresh}, err
	}
	if err := old.check(cfg, err); err != nil {
		return nil, Opening{}, &AdoptError{PinDir: cfg.PinDir, Err: err}
	}
	opening := Opening{How: Adopted}
	opening.Recovered, err = recoverHooks(cfg, old.Generation, f)
	var dp *Datapath
	switch {
	case err != nil:
	case old.Tag == tagOf(cfg):
		dp, err = adopt(cfg, old.Generation, &opening)
	default:
		dp, err = migrate(cfg, old.Generation, f, &opening)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	if err != nil {
		return nil, opening, &AdoptError{PinDir: cfg.PinDir, Err: err}
	}
	return dp, opening, nil
}

// check says whether these pins, read with err, can be adopted at all.
func (a about) check(cfg Config, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrIncomplete, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrForeign, err)
	case a.Format != aboutFormat:
		return fmt.Errorf("%w: format %d, not %d", ErrForeign, a.Format, aboutFormat)
	case a.Parent != cfg.ParentID:
		return fmt.Errorf("%w: attached to cgroup %d, not %d", ErrForeign, a.Parent, cfg.ParentID)
	}
	return nil
}

// recoverHooks finishes or undoes what a change of builds left that was killed: the
// generation that is published is enforced, and the other removed.
func recoverHooks(cfg Config, g generation, f *freezer) (bool, error) {
	others, err := otherGenerations(cfg.PinDir, g)
	if err != nil || len(others) == 0 {
		return false, err
	}
	if err := f.freeze(); err != nil {
		return true, err
	}
	if err := enforce(cfg, g, nil); err != nil {
		return true, fmt.Errorf("recover: %w", err)
	}
	return true, removeOtherGenerations(cfg.PinDir, g)
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return len(entries) == 0 && (err == nil || errors.Is(err, fs.ErrNotExist))
}

// adopt opens what is pinned. Nothing is loaded, so nothing is verified.
func adopt(cfg Config, g generation, opening *Opening) (*Datapath, error) {
	dp := &Datapath{pinDir: cfg.PinDir, generation: g}
	if err := dp.adopt(cfg, opening); err != nil {
		return nil, errors.Join(err, dp.Close())
	}
	return dp, nil
}

func (dp *Datapath) adopt(cfg Config, opening *Opening) (err error) {
	if err := dp.openObjects(); err != nil {
		return err
	}
	if err := dp.openLinks(cfg.ParentID); err != nil {
		return err
	}
	if opening.Recovered {
		if opening.Ended, err = dp.dropEnded(); err != nil {
			return err
		}
	}
	if opening.Released, err = dp.releaseHeld(); err != nil {
		return err
	}
	return dp.forgetAnnounced()
}

// releaseHeld gives back the uses of exec records that a predecessor took with
// origins: its connections ended with it.
func (dp *Datapath) releaseHeld() (int, error) {
	records, err := snapshot(dp.objects.Execs)
	if err != nil {
		return 0, fmt.Errorf("look for records that are held: %w", err)
	}
	released := 0
	for key, value := range records {
		for range valueAs[agentExecRecord](value).Held {
			if err := dp.DropExec(execID(valueAs[agentExecId]([]byte(key)))); err != nil {
				return released, err
			}
			released++
		}
	}
	return released, nil
}

// forgetAnnounced has every file announced again: what the predecessor read of them
// is gone with it.
func (dp *Datapath) forgetAnnounced() error {
	var key agentSandboxFile
	var yes uint8
	if err := sweep(dp.objects.Announced, &key, &yes, func() bool { return true }); err != nil &&
		!errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("forget announced files: %w", err)
	}
	return nil
}

// Sandboxes returns what the hooks know of every sandbox.
func (dp *Datapath) Sandboxes() ([]Sandbox, error) {
	var id uint64
	var value agentSandbox
	var all []Sandbox
	entries := dp.objects.Sandboxes.Iterate()
	for entries.Next(&id, &value) {
		all = append(all, sandboxOf(id, &value))
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	return all, nil
}
