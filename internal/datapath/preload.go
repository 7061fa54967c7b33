package datapath

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
)

// addPreloadVariables tells the exec hook for which variables to look.
func (dp *Datapath) addPreloadVariables() error {
	for bit, name := range flow.PreloadVariables() {
		var key agentVariable
		if copy(key.Name[:], name) == len(key.Name) || bit > 62 {
			return fmt.Errorf("add variable %s: no room for its name or bit", name)
		}
		if err := dp.objects.PreloadVariables.Put(key, uint32(bit)); err != nil {
			return fmt.Errorf("add variable %s: %w", name, err)
		}
	}
	return nil
}

// setPreloadInitials tells the exec hook how the names begin, so that it passes over
// most variables at once.
func setPreloadInitials(spec *ebpf.CollectionSpec) error {
	var initials uint64
	for _, name := range flow.PreloadVariables() {
		initials |= 1 << (name[0] - '@')
	}
	if err := spec.Variables[agentVarPreloadInitials].Set(initials); err != nil {
		return fmt.Errorf("set initials of variables: %w", err)
	}
	return nil
}

// renumbering says which of this build's variables each number of a predecessor's is.
type renumbering map[uint32]int

// renumberPreload compares the variables that a predecessor's exec hook looked for with
// this build's. It returns nil where the numbers stand for the same.
func renumberPreload(dir string) (renumbering, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, mapPrefix+agentMapPreloadVariables), nil)
	if err != nil {
		return nil, fmt.Errorf("compare variables: %w", err)
	}
	defer m.Close()
	entries, err := snapshot(m)
	if err != nil {
		return nil, fmt.Errorf("compare variables: %w", err)
	}
	own := flow.PreloadVariables()
	numbers, same := renumbering{}, true
	for name, number := range entries {
		was, is := valueAs[uint32](number), slices.Index(own, strings.TrimRight(name, "\x00"))
		numbers[was] = is
		same = same && int(was) == is
	}
	if same {
		return nil, nil //nolint:nilnil // nothing to change
	}
	return numbers, nil
}

// apply turns the bits of a record into this build's. A variable that it does not know
// is left out; that there was one stays a taint.
func (r renumbering) apply(preload uint64) uint64 {
	if r == nil {
		return preload
	}
	out := preload & uint64(flow.VariablesUnread)
	for was, is := range r {
		if is >= 0 && preload&(1<<was) != 0 {
			out |= 1 << is
		}
	}
	return out
}
