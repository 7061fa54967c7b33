package launch

import (
	"fmt"

	"github.com/ringfence/ringfence/internal/floor"
)

func landlockRequirements() []floor.Requirement {
	abi, err := landlockABI()
	if err != nil {
		r := landlockItself()
		r.Found = err.Error()
		return []floor.Requirement{r}
	}
	return judgeLandlock(abi)
}

func landlockItself() floor.Requirement {
	return floor.Requirement{
		Name:  "Landlock",
		Costs: "filesystem_policy restricts no files; hard_requirement starts nothing",
		Hint:  "boot with landlock among the modules of lsm=",
	}
}

// judgeLandlock says what a version of Landlock has of what is used beyond the first:
// where there is none, that says it all. Moving files is in every Landlock from the
// floor on.
func judgeLandlock(abi int) []floor.Requirement {
	first := landlockItself()
	if abi == 0 {
		first.State, first.Found = floor.Missing, "not in this kernel, or not chosen at its boot"
		return []floor.Requirement{first}
	}
	first.State, first.Found = floor.Met, fmt.Sprintf("version %d", abi)
	all := []floor.Requirement{first}
	for _, later := range []struct {
		abi               int
		name, costs, hint string
	}{
		{
			abiTruncate, "Landlock: truncating files",
			"files that may only be read can be truncated; hard_requirement starts nothing", "boot Linux 6.2 or newer",
		},
		{abiIoctl, "Landlock: ioctls of devices", "ioctl on device files of the policy's paths is not refused", "boot Linux 6.10 or newer"},
		{
			abiScopes, "Landlock: scopes",
			"signals and abstract sockets are kept in by namespaces alone", "boot Linux 6.12 or newer",
		},
		{
			abiResolveUnix, "Landlock: Unix sockets",
			"the host's sockets on paths that may not be written can be reached", "boot a kernel with version 9 of Landlock",
		},
	} {
		r := floor.Requirement{Name: later.name, State: floor.Met, Found: first.Found, Costs: later.costs, Hint: later.hint}
		if abi < later.abi {
			r.State, r.Found = floor.Missing, fmt.Sprintf("version %d; it is from %d on", abi, later.abi)
		}
		all = append(all, r)
	}
	return all
}
