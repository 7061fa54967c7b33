package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
)

// How a datapath was come by.
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
	// Released is how many connections the predecessor had when it ended, whose
	// programs' records it kept.
	Released int
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
// all that is in them, or loads new ones where it left none. There may be one
// datapath at a time; the caller sees to it that the predecessor is dead.
//
// An error is an *AdoptError where there is something that cannot be adopted.
func Open(cfg Config) (*Datapath, Opening, error) {
	if err := cfg.check(); err != nil {
		return nil, Opening{}, err
	}
	old, err := readAbout(cfg.PinDir)
	if errors.Is(err, fs.ErrNotExist) && isEmpty(cfg.PinDir) {
		dp, err := Load(cfg)
		return dp, Opening{How: Fresh}, err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: %w", ErrIncomplete, err)
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrForeign, err)
	case old.Format != aboutFormat:
		err = fmt.Errorf("%w: format %d, not %d", ErrForeign, old.Format, aboutFormat)
	case old.Parent != cfg.ParentID:
		err = fmt.Errorf("%w: attached to cgroup %d, not %d", ErrForeign, old.Parent, cfg.ParentID)
	case old.Tag != tagOf(cfg):
		err = fmt.Errorf("%w: made by another build", ErrForeign)
	}
	if err != nil {
		return nil, Opening{}, &AdoptError{PinDir: cfg.PinDir, Err: err}
	}
	dp := &Datapath{pinDir: cfg.PinDir, generation: old.Generation}
	opening, err := dp.adopt(cfg)
	if err != nil {
		return nil, opening, errors.Join(&AdoptError{PinDir: cfg.PinDir, Err: err}, dp.Close())
	}
	return dp, opening, nil
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return len(entries) == 0 && (err == nil || errors.Is(err, fs.ErrNotExist))
}

// adopt opens what is pinned. Nothing is loaded, so nothing is verified.
func (dp *Datapath) adopt(cfg Config) (Opening, error) {
	opening := Opening{How: Adopted}
	err := dp.openObjects()
	if err == nil {
		err = dp.openLinks(cfg.ParentID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	if err != nil {
		return opening, err
	}
	opening.Released, err = dp.releaseHeld()
	return opening, errors.Join(err, dp.forgetAnnounced())
}

// releaseHeld gives back the uses of exec records that a predecessor took with
// origins: its connections ended with it.
func (dp *Datapath) releaseHeld() (int, error) {
	held, err := dp.held()
	if err != nil {
		return 0, fmt.Errorf("look for records that are held: %w", err)
	}
	released := 0
	for id, n := range held {
		for range n {
			if err := dp.DropExec(id); err != nil {
				return released, err
			}
			released++
		}
	}
	return released, nil
}

// lookAttempts is how often a table is looked through anew that changes too much
// meanwhile.
const lookAttempts = 10

func (dp *Datapath) held() (map[flow.ExecID]uint32, error) {
	var err error
	for range lookAttempts {
		var id agentExecId
		var record agentExecRecord
		held := map[flow.ExecID]uint32{}
		entries := dp.objects.Execs.Iterate()
		for entries.Next(&id, &record) {
			if record.Held > 0 {
				held[execID(id)] = record.Held
			}
		}
		if err = entries.Err(); !errors.Is(err, ebpf.ErrIterationAborted) {
			return held, err
		}
	}
	return nil, err
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
		all = append(all, Sandbox{
			CgroupID: id, NetnsCookie: value.NetnsCookie, MountNS: value.MntNs, UserNS: value.UserNs,
			Capture: value.CapturePort, DNS: value.DnsPort, Proxy: value.ProxyPort,
		})
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	return all, nil
}
