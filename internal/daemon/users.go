package daemon

import (
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
)

const anotherUser = "name a user of this host in the sandbox's spec (user), or leave it out for one of the sandbox's own"

// userOf returns who a sandbox's commands run as: whom the spec names, else the
// policy, else the user that belongs to this sandbox alone.
func userOf(spec string, p *policy.Policy, number uint32) (launch.User, error) {
	if spec != "" {
		return lookUp("user", spec)
	}
	name, group := p.Process()
	if name == "" && group == "" {
		return launch.DaemonUser(number)
	}
	if name == "" {
		return launch.User{}, api.InvalidArgument(anotherUser, "the policy names the group %q but no user", group)
	}
	u, err := lookUp("the policy's run_as_user", name)
	if err != nil || group == "" {
		return u, err
	}
	gid, err := launch.LookupGroup(group)
	if err != nil {
		return launch.User{}, api.InvalidArgument(anotherUser, "the policy's run_as_group %q: %v", group, err)
	}
	u.GID, u.Groups = gid, nil
	return u, nil
}

func lookUp(source, name string) (launch.User, error) {
	u, err := launch.LookupUser(name)
	if err != nil {
		return launch.User{}, api.InvalidArgument(anotherUser, "%s: %v", source, err)
	}
	return u, nil
}
