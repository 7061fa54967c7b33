package datapath

import (
	"fmt"

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
