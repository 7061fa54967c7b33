package cli

import (
	"fmt"

	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
)

const anotherUser = "choose another with --user"

// chooseUser says who the command runs as: the most explicit of what names
// somebody. It is nil where nothing does.
func chooseUser(flag string, p *policy.Policy, env Env) (*launch.User, error) {
	if flag != "" {
		return lookUpUser("--user", flag)
	}
	if name, group := p.Process(); name != "" || group != "" {
		return policyUser(name, group)
	}
	// Root's own sudo says nothing about who it is for.
	if uid := env.variable("SUDO_UID"); uid != "" && uid != "0" {
		return lookUpUser("the user of sudo (SUDO_UID)", uid)
	}
	return nil, nil
}

func lookUpUser(source, spec string) (*launch.User, error) {
	u, err := launch.LookupUser(spec)
	if err != nil {
		return nil, hint(fmt.Errorf("%s: %w", source, err), anotherUser)
	}
	return &u, nil
}

const processSource = "the policy's process"

// policyUser is the user of a policy's process section. A user without a group
// has its own groups; a group replaces them.
func policyUser(name, group string) (*launch.User, error) {
	if name == "" {
		return nil, hint(fmt.Errorf("%s: names the group %q but no user", processSource, group), "add run_as_user, or use --user")
	}
	u, err := lookUpUser(processSource, name)
	if err != nil || group == "" {
		return u, err
	}
	gid, err := launch.LookupGroup(group)
	if err != nil {
		return nil, hint(fmt.Errorf("%s: group %q: %w", processSource, group, err), anotherUser)
	}
	u.GID, u.Groups = gid, nil
	return u, nil
}
