package cli

import (
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/source"
)

// unprivileged is who is asked about where nobody was named: a user that owns
// nothing (nobody).
const unprivileged = 65534

// viewOptions say in whose eyes a policy is looked at: in which root its paths
// lead, and who could change that.
type viewOptions struct {
	root string
	user string
}

func (o *viewOptions) addTo(f *pflag.FlagSet) {
	f.StringVar(&o.root, "root", "/", "look for programs below `DIR`, the sandbox's root")
	f.StringVar(&o.user, "user", "", "the sandbox's user, `NAME|UID`, who may be able to change links\n(default: the policy's, sudo's, the caller; for root one that owns nothing)")
}

// view is a root that is open for looking.
type view struct {
	*rootfs.Root
	dir  *os.File
	user rootfs.User
}

// open returns the view, and notes on who it is the view of.
func (o *viewOptions) open(env Env, p *policy.Policy) (*view, []string, error) {
	user, notes, err := o.chooseUser(env, p)
	if err != nil {
		return nil, nil, unread(err)
	}
	dir, err := os.Open(o.root)
	if err != nil {
		return nil, nil, unread(fmt.Errorf("open --root: %w", err))
	}
	return &view{rootfs.New(dir), dir, rootfs.User{UID: user.UID, GID: user.GID, Groups: user.Groups}}, notes, nil
}

// chooseUser returns who a run of this caller's would have as its user.
func (o *viewOptions) chooseUser(env Env, p *policy.Policy) (launch.User, []string, error) {
	nobody := launch.User{UID: unprivileged, GID: unprivileged}
	chosen, err := chooseUser(o.user, p, env)
	switch {
	case err != nil && o.user != "":
		return nobody, nil, err
	case err != nil:
		return nobody, []string{err.Error() + "; links are judged for a user that owns nothing: see --user"}, nil
	case chosen != nil:
		return *chosen, nil, nil
	case env.UID == 0:
		return nobody, nil, nil // a run has a user of its own
	}
	chosen, err = lookUpUser("the caller", strconv.Itoa(env.UID))
	if err != nil {
		return nobody, nil, err
	}
	return *chosen, nil, nil
}

func (v *view) close() { _ = v.dir.Close() }

func (v *view) links(p *policy.Policy) []policy.Link {
	links, _ := agent.FollowLinks(p, v.Root, v.user, nil)
	return links
}

// loadSet reads and loads a policy for a command that looks at it. Warnings are
// for check to tell.
func loadSet(set source.Set) (*policy.Policy, error) {
	content, err := set.Read()
	if err != nil {
		return nil, unread(err)
	}
	p, _, err := content.Load()
	if err != nil {
		return nil, &statusError{hint(err, "ringfence policy check tells everything that is wrong"), policyFaulty}
	}
	return p, nil
}
