// Package datapath is the agent's side of the kernel hooks: it loads, attaches
// and pins the BPF object of bpf/, and turns its C structures into flow types.
//
// It is the only owner of BPF maps. It knows nothing of policies, names or
// connections; it hands out origins, exec records and rejections.
package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// Errors of this package.
var (
	// ErrNotFound: the kernel has no such origin or exec record (any more).
	ErrNotFound = errors.New("not found")
)

// Config says where the hooks are attached and pinned.
type Config struct {
	// Parent is the directory of the cgroup under which sandboxes are made. The
	// hooks are attached to it once; a child that was not added is rejected.
	Parent string
	// ParentID is the kernel's id of that cgroup.
	ParentID uint64
	// PinDir is a directory on a BPF file system, made by Load.
	PinDir string
	// MaxSandboxes is how many sandboxes there may be at once: the kernel memory
	// and the time that Load takes grow with it. 0 means 1024, which is the most.
	MaxSandboxes int
}

func (c Config) check() error {
	if c.MaxSandboxes < 0 || c.MaxSandboxes > int(agentBoundMAX_SANDBOXES) {
		return fmt.Errorf("load datapath for %d sandboxes: at most %d", c.MaxSandboxes, agentBoundMAX_SANDBOXES)
	}
	return nil
}

func (c Config) sandboxes() uint32 {
	return uint32(cmp.Or(c.MaxSandboxes, int(agentBoundMAX_SANDBOXES)))
}

// Datapath is the loaded and attached object. Its methods may be used at once.
type Datapath struct {
	objects    agentObjects
	links      []link.Link
	pinDir     string
	generation generation
}

// Load loads the object, attaches every hook and pins every link, map and program
// below the pin directory, where nothing may be. Either all of that is done, or
// nothing is left; where Load is killed, Open and Unpin know what is.
//
// An unpinned link would detach its hook when Go's garbage collector closes it,
// or when the agent dies: so Load returns only once all are pinned.
func Load(cfg Config) (*Datapath, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if !isEmpty(cfg.PinDir) {
		return nil, fmt.Errorf("load datapath: there are pins at %s", cfg.PinDir)
	}
	dp := &Datapath{pinDir: cfg.PinDir, generation: 1}
	if err := dp.load(cfg); err != nil {
		return nil, errors.Join(err, dp.Remove())
	}
	return dp, nil
}

func (dp *Datapath) load(cfg Config) error {
	if err := mountBPFFS(cfg.PinDir); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.PinDir, 0o700); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	obj, err := readObject(cfg)
	if err != nil {
		return err
	}
	if err := dp.loadObjects(obj, nil); err != nil {
		return err
	}
	if err := dp.addUnknownState(); err != nil {
		return err
	}
	if err := dp.pinObjects(); err != nil {
		return err
	}
	if err := dp.attach(cfg.Parent); err != nil {
		return err
	}
	return dp.about(cfg).publish(cfg.PinDir)
}

// about says what this datapath's pins are.
func (dp *Datapath) about(cfg Config) about {
	return about{Format: aboutFormat, Generation: dp.generation, Parent: cfg.ParentID, Tag: tagOf(cfg)}
}

// object is what is embedded, with what a configuration says built in.
type object struct {
	spec  *ebpf.CollectionSpec
	types *btf.Cache
}

func readObject(cfg Config) (object, error) {
	// Reading the kernel's types takes long, and can be done meanwhile. An error
	// comes again where they are used.
	types := btf.NewCache()
	go func() { _, _ = types.Kernel() }()
	spec, err := loadAgent()
	if err != nil {
		return object{}, fmt.Errorf("read embedded object: %w", err)
	}
	if err := spec.Variables[agentVarParentCgroup].Set(cfg.ParentID); err != nil {
		return object{}, fmt.Errorf("set parent cgroup: %w", err)
	}
	if err := setPreloadInitials(spec); err != nil {
		return object{}, err
	}
	fit(spec, cfg.sandboxes())
	return object{spec, types}, nil
}

// loadObjects loads maps and programs; kept are maps to use instead of new ones.
func (dp *Datapath) loadObjects(obj object, kept map[string]*ebpf.Map) error {
	opts := &ebpf.CollectionOptions{MapReplacements: kept, Cache: obj.types}
	if err := obj.spec.LoadAndAssign(&dp.objects, opts); err != nil {
		return fmt.Errorf("load BPF object: %w", err)
	}
	return dp.addPreloadVariables()
}

// Close closes the agent's descriptors. The pinned hooks stay and go on to
// refuse what they cannot attribute.
func (dp *Datapath) Close() error {
	for _, l := range dp.links {
		_ = l.Close() // pinned: closing the descriptor does not detach
	}
	return dp.objects.Close()
}

// Remove detaches the hooks and removes every pin.
func (dp *Datapath) Remove() error {
	err := Unpin(dp.pinDir)
	return errors.Join(err, dp.Close())
}

// Unpin removes the pins that a Load left in a directory, and with them the
// hooks, once no agent holds them open. A missing directory is no error.
func Unpin(pinDir string) error {
	if err := os.RemoveAll(pinDir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
