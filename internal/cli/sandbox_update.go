package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/source"
)

const sandboxUpdateLong = `Changes a sandbox while it runs. Labels, variables and providers are changed one by
one: KEY=VALUE (a provider: NAME) sets, and KEY- removes. A policy and authorized keys
replace those of before. Programs that run keep the environment they have.

Flags marked * may be repeated.` + serviceExits

// updateTries bounds how often an update is made anew on what another changed.
const updateTries = 5

// updateOptions are the flags of update as they were typed.
type updateOptions struct {
	policies    source.Set
	labels      []string
	annotations []string
	env         []string
	providers   []string
	keys        []string
	noKeys      bool
}

func newSandboxUpdate(env Env) *cobra.Command {
	var opts updateOptions
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change a sandbox's labels, environment, policy, providers or keys",
		Long:  sandboxUpdateLong,
		Example: `  ringfence sandbox update web --label team=web --label old-
  ringfence sandbox update web --policy web.yaml --provider github`,
		Args: theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if opts.noKeys && len(opts.keys) > 0 {
				return unread(errors.New("--authorized-key and --no-authorized-keys are both given"))
			}
			return r.call(func(c *api.Client) error {
				changed, err := opts.update(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				return out.show(env.Stdout, changed, func(t *table, wide bool) { sandboxRows(t, wide, changed) })
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&opts.policies.Specs, "policy", nil, "replace the policy by `FILE|NAME`; several make one *")
	f.StringArrayVar(&opts.labels, "label", nil, "set the label `K=V`, or remove K- *")
	f.StringArrayVar(&opts.annotations, "annotation", nil, "set the annotation `K=V`, or remove K- *")
	f.StringArrayVar(&opts.env, "env", nil, "set the variable `K=V`, or remove K- *")
	f.StringArrayVar(&opts.providers, "provider", nil, "add the provider `NAME`, or remove NAME- *")
	f.StringArrayVar(&opts.keys, "authorized-key", nil, "replace the keys by `FILE|KEY` *")
	f.BoolVar(&opts.noKeys, "no-authorized-keys", false, "remove all keys")
	out.addTo(f, nounFormats()...)
	r.addTo(f)
	cmd.ValidArgsFunction = completeSandbox(r, 1)
	completePolicies(cmd)
	completeProviders(cmd, r, "provider")
	return cmd
}

// update reads, changes and writes. What another wrote in between is not lost: the
// agent refuses, and the change is made on that.
func (o *updateOptions) update(ctx context.Context, c *api.Client, name string) (*ringfencev1.Sandbox, error) {
	for try := 1; ; try++ {
		present, err := c.Sandboxes.GetSandbox(ctx, &ringfencev1.GetSandboxRequest{Name: name})
		if err != nil {
			return nil, err
		}
		request, err := o.request(present)
		if err != nil {
			return nil, err
		}
		changed, err := c.Sandboxes.UpdateSandbox(ctx, request)
		if conflicts(err) && try < updateTries {
			continue
		}
		return changed, err
	}
}

func (o *updateOptions) request(present *ringfencev1.Sandbox) (*ringfencev1.UpdateSandboxRequest, error) {
	spec, now := &ringfencev1.SandboxSpec{}, present.GetSpec()
	request := &ringfencev1.UpdateSandboxRequest{Name: present.GetName(), Spec: spec, Version: present.GetVersion()}
	field := func(name string) { request.Fields = append(request.Fields, name) }
	var err error
	if len(o.labels) > 0 {
		field("labels")
		if spec.Labels, err = merge("--label", now.GetLabels(), o.labels); err != nil {
			return nil, err
		}
	}
	if len(o.annotations) > 0 {
		field("annotations")
		if spec.Annotations, err = merge("--annotation", now.GetAnnotations(), o.annotations); err != nil {
			return nil, err
		}
	}
	if len(o.env) > 0 {
		field("environment")
		if spec.Environment, err = merge("--env", now.GetEnvironment(), o.env); err != nil {
			return nil, err
		}
	}
	if len(o.providers) > 0 {
		field("providers")
		spec.Providers = mergeNames(now.GetProviders(), o.providers)
	}
	if len(o.keys) > 0 || o.noKeys {
		field("ssh_authorized_keys")
		if spec.SshAuthorizedKeys, err = authorizedKeys(o.keys); err != nil {
			return nil, err
		}
	}
	if len(o.policies.Specs) > 0 {
		field("policy")
		if spec.Policy, err = policySource(o.policies); err != nil {
			return nil, err
		}
	}
	if len(request.GetFields()) == 0 {
		return nil, unread(hint(errors.New("nothing is to be changed"), "ringfence sandbox update --help lists what can be"))
	}
	return request, nil
}

func newAccept(env Env) *cobra.Command {
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "accept NAME PATH",
		Short: "Trust the program that is used next at PATH",
		Long: `Trusts the file that is used next at PATH by the sandbox NAME, as if it were used
there for the first time. For when you have replaced a program, and its connections
are denied since (reason hash_changed).` + serviceExits,
		Example: `  ringfence sandbox accept web /usr/local/bin/tool`,
		Args:    theseArgs("NAME", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.call(func(c *api.Client) error {
				_, err := c.Sandboxes.AcceptProgram(cmd.Context(), &ringfencev1.AcceptProgramRequest{Sandbox: args[0], Path: args[1]})
				if err == nil {
					_, err = env.Stderr.WriteString(event.Prose("what "+args[0]+" uses next at "+args[1]+" is trusted") + "\n")
				}
				return err
			})
		},
	}
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeSandbox(r, 1)
	return cmd
}
