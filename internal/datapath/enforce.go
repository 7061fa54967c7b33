package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// detachWait bounds the wait for links whose pins are gone. The kernel detaches them
// once no reader can be in the file system's entry any more, which takes milliseconds.
const detachWait = 2 * time.Second

// enforce makes the programs of one generation those that the hooks run, whichever
// run them now, from their pins alone. It can be cut short anywhere and done again, for
// this generation or for another.
//
// A cgroup hook changes from one program to the next in one step: there is no moment
// without. A tracepoint loses the old program before it gets the new: two that count
// in the same tables would count twice, and what none sees has no identity.
//
// own are the hooks of this build; those that the links do not have yet are attached.
func enforce(cfg Config, g generation, own []hook) error {
	programs, err := pinsOf(g.dir(cfg.PinDir), hookPrefix)
	if err != nil {
		return err
	}
	var tracepoints []string
	for _, name := range programs {
		tracepoint, err := enforceCgroupHook(cfg, g, name, own)
		if err != nil {
			return fmt.Errorf("hook %s: %w", name, err)
		}
		if tracepoint {
			tracepoints = append(tracepoints, name)
		}
	}
	detached, err := unpinTracepoints(cfg, g)
	if err != nil {
		return err
	}
	for _, name := range tracepoints {
		if err := enforceTracepoint(cfg, g, name); err != nil {
			return fmt.Errorf("hook %s: %w", name, err)
		}
	}
	links, err := pinsOf(cfg.PinDir, linkPrefix)
	if err != nil {
		return err
	}
	for _, name := range links { // of hooks that this generation does not have
		if !slices.Contains(programs, name) {
			if err := unpin(filepath.Join(cfg.PinDir, linkPrefix+name)); err != nil {
				return err
			}
		}
	}
	return awaitDetached(detached)
}

// openHookProgram opens the program of a hook.
func openHookProgram(cfg Config, g generation, name string) (*ebpf.Program, error) {
	return ebpf.LoadPinnedProgram(filepath.Join(g.dir(cfg.PinDir), hookPrefix+name), nil)
}

// enforceCgroupHook does nothing but say so where the hook is a tracepoint.
func enforceCgroupHook(cfg Config, g generation, name string, own []hook) (tracepoint bool, err error) {
	program, err := openHookProgram(cfg, g, name)
	if err != nil {
		return false, err
	}
	defer program.Close()
	if program.Type() == ebpf.Tracing {
		return true, nil
	}
	pin := filepath.Join(cfg.PinDir, linkPrefix+name)
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, attachNew(cfg, name, pin, own)
	}
	if err != nil {
		return false, err
	}
	defer l.Close()
	return false, l.Update(program)
}

// attachNew attaches a hook that the predecessor's build did not have.
func attachNew(cfg Config, name, pin string, own []hook) error {
	i := slices.IndexFunc(own, func(h hook) bool { return h.name == name })
	if i < 0 {
		return fmt.Errorf("%w: it has no link", ErrIncomplete)
	}
	l, err := own[i].link(cfg.Parent)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(pin)
}

func enforceTracepoint(cfg Config, g generation, name string) error {
	pin := filepath.Join(g.dir(cfg.PinDir), linkPrefix+name)
	if isPinned(pin) {
		return nil
	}
	program, err := openHookProgram(cfg, g, name)
	if err != nil {
		return err
	}
	defer program.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(pin)
}

// unpinTracepoints has the tracepoints of all other generations detached, and returns
// which links these are.
func unpinTracepoints(cfg Config, g generation) ([]link.ID, error) {
	dirs, err := otherGenerations(cfg.PinDir, g)
	if err != nil {
		return nil, err
	}
	var ids []link.ID
	for _, dir := range dirs {
		names, err := pinsOf(dir, linkPrefix)
		if err != nil {
			return ids, err
		}
		for _, name := range names {
			pin := filepath.Join(dir, linkPrefix+name)
			id, err := linkID(pin)
			if err == nil {
				err = unpin(pin)
			}
			if err != nil {
				return ids, fmt.Errorf("detach %s: %w", name, err)
			}
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func linkID(pin string) (link.ID, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	return info.ID, nil
}

// awaitDetached waits until links are gone. The kernel tells nobody: it is asked.
func awaitDetached(ids []link.ID) error {
	ask := time.NewTicker(time.Millisecond)
	defer ask.Stop()
	late := time.After(detachWait)
	for _, id := range ids {
		for isAttached(id) {
			select {
			case <-ask.C:
			case <-late:
				return fmt.Errorf("link %d is still attached", id)
			}
		}
	}
	return nil
}

// isAttached: what cannot be looked at may be.
func isAttached(id link.ID) bool {
	l, err := link.NewFromID(id)
	if err == nil {
		_ = l.Close() // may be the last that it goes with
	}
	return !errors.Is(err, os.ErrNotExist)
}
