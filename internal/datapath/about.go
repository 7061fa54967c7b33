package datapath

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
)

// aboutFormat is of this layout of a pin directory. A build that has another one can
// neither adopt these pins nor they its.
const aboutFormat = 1

// tag names an object with all that is built into it when it is loaded. What one tag
// loaded, the same tag adopts as it is.
type tag [sha256.Size]byte

// about says of pins what made them. A BPF file system holds nothing but BPF objects,
// so it is the only value of a pinned map. It is pinned once all else is: pins without
// it are of a load that did not come to its end.
type about struct {
	Format     uint32
	Generation generation
	Parent     uint64 // id of the cgroup to which the hooks are attached
	Tag        tag
}

func tagOf(cfg Config) tag {
	h := sha256.New()
	_, _ = h.Write(_AgentBytes)
	_, _ = fmt.Fprint(h, cfg.ParentID, cfg.sandboxes(), flow.PreloadVariables())
	return tag(h.Sum(nil))
}

// publish makes a generation the one that the next start adopts, in one step.
func (a about) publish(pinDir string) error {
	value, err := binary.Append(nil, binary.NativeEndian, a)
	if err != nil {
		return fmt.Errorf("say what the pins are: %w", err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: aboutName, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(value)), MaxEntries: 1,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: value}},
	})
	if err != nil {
		return fmt.Errorf("say what the pins are: %w", err)
	}
	defer m.Close()
	next := filepath.Join(pinDir, aboutName+"_next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("say what the pins are: %w", err)
	}
	if err := m.Pin(next); err != nil {
		return fmt.Errorf("say what the pins are: %w", err)
	}
	if err := os.Rename(next, filepath.Join(pinDir, aboutName)); err != nil {
		return fmt.Errorf("say what the pins are: %w", err)
	}
	return nil
}

// readAbout returns fs.ErrNotExist where no load came to its end.
func readAbout(pinDir string) (about, error) {
	var a about
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, aboutName), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return a, fmt.Errorf("read what the pins are: %w", err)
	}
	defer m.Close()
	if got, want := int(m.ValueSize()), binary.Size(a); m.KeySize() != 4 || got != want {
		return a, fmt.Errorf("read what the pins are: %d bytes, not %d", got, want)
	}
	value, err := m.LookupBytes(uint32(0))
	if err != nil {
		return a, fmt.Errorf("read what the pins are: %w", err)
	}
	if _, err := binary.Decode(value, binary.NativeEndian, &a); err != nil {
		return a, fmt.Errorf("read what the pins are: %w", err)
	}
	return a, nil
}
