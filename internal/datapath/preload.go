package datapath

import (
	"fmt"

	"github.com/ringfence/ringfence/internal/flow"
)

// addPreloadVariables tells the exec hook for which variables to look.
func (dp *Datapath) addPreloadVariables() error {
	for bit, name := range flow.PreloadVariables() {
		var key agentVariable
		if copy(key.Name[:], name) == len(key.Name) || bit > 30 {
			return fmt.Errorf("add variable %s: no room for its name or bit", name)
		}
		if err := dp.objects.PreloadVariables.Put(key, uint32(bit)); err != nil {
			return fmt.Errorf("add variable %s: %w", name, err)
		}
	}
	return nil
}
