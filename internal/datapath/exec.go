package datapath

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
)

// pathInline and pathMax mirror PATH_INLINE and PATH_MAX_BYTES of bpf/types.h.
const (
	pathInline = len(agentExecRecord{}.Path)
	pathMax    = len(agentLongPath{}.Bytes)
)

// ReadExec reads an exec record. It is there as long as a process runs the
// image, an origin of it was not dropped, or a descendant lists it.
func (dp *Datapath) ReadExec(id flow.ExecID) (flow.Exec, error) {
	key := kernelExecID(id)
	var r agentExecRecord
	if err := dp.objects.Execs.Lookup(key, &r); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			err = ErrNotFound
		}
		return flow.Exec{}, fmt.Errorf("read exec %v: %w", id, err)
	}
	path, err := dp.readPath(&r)
	if err != nil {
		return flow.Exec{}, err
	}
	return execOf(id, &r, path), nil
}

// execOf returns what a record says, whose path was read already. A length that no
// hook writes is cut to what is there.
func execOf(id flow.ExecID, r *agentExecRecord, path string) flow.Exec {
	exec := flow.Exec{
		Image: flow.Image{
			Exec:    id,
			Path:    path,
			File:    fileID(r.File),
			Taints:  taintsOf(path, r.Taints),
			Preload: flow.Variables(r.Preload),
			Script:  string(r.Script[:min(int(r.ScriptLen), len(r.Script))]),
		},
		UID: r.Uid,
		GID: r.Gid,
	}
	for _, a := range r.Ancestors[:min(int(r.AncestorsLen), len(r.Ancestors))] {
		exec.Ancestors = append(exec.Ancestors, execID(a))
	}
	return exec
}

// taintsOf adds to the hook's taints the one that the name of the file tells.
func taintsOf(path string, taints uint32) flow.Taint {
	if flow.IsLoader(path) {
		taints |= uint32(flow.TaintLoader)
	}
	return flow.Taint(taints)
}

func (dp *Datapath) readPath(r *agentExecRecord) (string, error) {
	return r.path(func() (*agentLongPath, error) {
		var long agentLongPath
		return &long, dp.objects.LongPaths.Lookup(r.Id, &long)
	})
}

// path returns the path of a record. A long one is looked up.
func (r *agentExecRecord) path(lookUp func() (*agentLongPath, error)) (string, error) {
	n := int(r.PathLen)
	if n <= pathInline {
		return string(r.Path[:n]), nil
	}
	long, err := lookUp()
	if err != nil || n > pathMax {
		return "", fmt.Errorf("read long path of exec %v: %w", execID(r.Id), ErrNotFound)
	}
	// The walk writes from the end.
	return string(long.Bytes[pathMax-n:]), nil
}

// DropExec gives back the use of an exec record that came with an origin.
func (dp *Datapath) DropExec(id flow.ExecID) error {
	args := agentDropExecArgs{Id: kernelExecID(id)}
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&args)), int(unsafe.Sizeof(args)))
	if _, err := dp.objects.DropExec.Run(&ebpf.RunOptions{Context: buf}); err != nil {
		return fmt.Errorf("drop exec %v: %w", id, err)
	}
	return nil
}

func (dp *Datapath) removeTasks(sandbox uint64) error {
	var key uint32
	var value agentTask
	return sweep(dp.objects.Tasks, &key, &value, func() bool { return value.Sandbox == sandbox })
}

func (dp *Datapath) removeExecs(sandbox uint64) error {
	var key agentExecId
	var value agentExecRecord
	return sweep(dp.objects.Execs, &key, &value, func() bool {
		if value.Sandbox != sandbox {
			return false
		}
		if int(value.PathLen) > pathInline {
			_ = deleteIfThere(dp.objects.LongPaths, key)
		}
		return true
	})
}

// sweep deletes the entries that match, in two steps: deleting while iterating
// would start the iteration anew.
func sweep[K, V any](m *ebpf.Map, key *K, value *V, match func() bool) error {
	var keys []K
	entries := m.Iterate()
	for entries.Next(key, value) {
		if match() {
			keys = append(keys, *key)
		}
	}
	errs := []error{entries.Err()}
	for _, k := range keys {
		errs = append(errs, deleteIfThere(m, k))
	}
	return errors.Join(errs...)
}
