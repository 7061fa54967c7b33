package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"
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
	f.StringVar(&o.user, "user", "", "the sandbox's user, `NAME|UID`, who may be able to change links\n(default: the policy's, sudo's, else one that owns nothing)")
}

// view is a root that is open for looking.
type view struct {
	*rootfs.Root
	dir  *os.File
	user rootfs.User
}

func (o *viewOptions) open(env Env, p *policy.Policy) (*view, error) {
	chosen, err := chooseUser(o.user, p, env)
	if err != nil && o.user != "" {
		return nil, unread(err)
	}
	user := launch.User{UID: unprivileged, GID: unprivileged}
	if err == nil && chosen != nil {
		user = *chosen
	}
	dir, err := os.Open(o.root)
	if err != nil {
		return nil, unread(fmt.Errorf("open --root: %w", err))
	}
	return &view{rootfs.New(dir), dir, rootfs.User{UID: user.UID, GID: user.GID, Groups: user.Groups}}, nil
}

func (v *view) close() { _ = v.dir.Close() }

func (v *view) links(p *policy.Policy) []policy.Link {
	return agent.FollowLinks(p, v.Root, v.user, nil)
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

func newPolicyShow(env Env, _ *int) *cobra.Command {
	var out output
	var opts viewOptions
	var raw bool
	cmd := &cobra.Command{
		Use:   "show [FILE...]",
		Short: "Show a policy as it is composed and resolved",
		Long: `Shows policy files as the one policy that they make (default: "default"), in
canonical form, as YAML that loads again. Comments say where each part was
defined, and where paths of programs lead that are symbolic links.

With --raw, the text of one shipped policy as it is, to start a file from.`,
		Example: `  ringfence policy show base gitlab
  ringfence policy show --raw base > my.yaml`,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			set := source.Set{Specs: args}
			if raw {
				return showRaw(env, set)
			}
			return showPolicy(env, set, &opts, out.value)
		},
	}
	out.addTo(cmd.Flags(), "yaml", "json")
	opts.addTo(cmd.Flags())
	cmd.Flags().BoolVar(&raw, "raw", false, "print the text as it is")
	return cmd
}

func showRaw(env Env, set source.Set) error {
	content, err := set.Read()
	if err != nil {
		return unread(err)
	}
	if len(content.Policies) != 1 {
		return unread(hint(errors.New("--raw shows one policy, not "+strconv.Itoa(len(content.Policies))), "without --raw several are shown as one"))
	}
	_, err = env.Stdout.Write(content.Policies[0].Data)
	return err
}

func showPolicy(env Env, set source.Set, opts *viewOptions, format string) error {
	p, err := loadSet(set)
	if err != nil {
		return err
	}
	v, err := opts.open(env, p)
	if err != nil {
		return err
	}
	defer v.close()
	write := p.YAML
	if format == "json" {
		write = p.JSON
	}
	text, err := write(v.links(p))
	if err != nil {
		return err
	}
	if format == "json" {
		text = append(text, '\n')
	}
	_, err = env.Stdout.Write(text)
	return err
}
