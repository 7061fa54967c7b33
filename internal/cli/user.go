package cli

import (
	"fmt"
	"os/user"
	"strconv"

	"github.com/ringfence/ringfence/internal/launch"
)

// policyUser is the user of a policy's process section. A user without a group
// has its own groups; a group replaces them.
func policyUser(userSpec, groupSpec string) (launch.User, error) {
	if userSpec == "" {
		return launch.User{}, &hintedError{
			fmt.Errorf("the policy's process names the group %q without a user", groupSpec),
			"add run_as_user, or use --user",
		}
	}
	u, err := launch.LookupUser(userSpec)
	if err != nil {
		return launch.User{}, &hintedError{
			fmt.Errorf("the policy's process: %w", err),
			"make the user, or choose another with --user",
		}
	}
	if groupSpec == "" {
		return u, nil
	}
	gid, err := groupID(groupSpec)
	if err != nil {
		return launch.User{}, err
	}
	u.GID, u.Groups = gid, nil
	return u, nil
}

func groupID(spec string) (uint32, error) {
	text := spec
	if g, err := user.LookupGroup(spec); err == nil {
		text = g.Gid
	}
	gid, err := strconv.ParseUint(text, 10, 32)
	if err != nil || gid == 0 {
		return 0, &hintedError{
			fmt.Errorf("the policy's process: no group %q", spec),
			"make the group, or choose a user with --user",
		}
	}
	return uint32(gid), nil
}
