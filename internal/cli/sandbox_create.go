package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/source"
	"github.com/ringfence/ringfence/policies"
)

const sandboxCreateLong = `Makes a sandbox, and returns when its fence stands and commands can be run in it.
Its name is printed; without NAME the agent chooses one.

Without --policy the sandbox gets the shipped policy "default". Several make one. The
agent keeps the text of the files: a later change of a file changes nothing; see
"ringfence policy set".

Flags marked * may be repeated.` + serviceExits

// maxKeysFile bounds --authorized-key.
const maxKeysFile = 256 << 10

// sandboxOptions are the flags of create as they were typed.
type sandboxOptions struct {
	policies     source.Set
	labels       []string
	annotations  []string
	env          []string
	providers    []string
	keys         []string
	visible      []string
	user         string
	workdir      string
	controlPlane string
}

func (o *sandboxOptions) addTo(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringArrayVar(&o.policies.Specs, "policy", nil, "policy `FILE|NAME`; several make one (default \"default\", which is shipped) *")
	f.StringArrayVar(&o.providers, "provider", nil, "let it use the provider `NAME` *")
	f.StringArrayVar(&o.env, "env", nil, "set `K=V` in the environment of its commands; K alone: as it is here *")
	f.StringVar(&o.user, "user", "", "run commands as `NAME|UID`; not root (default: as the policy says, else a uid of its own)")
	f.StringVar(&o.workdir, "workdir", "", "start commands in `DIR` (default: the user's home)")
	f.StringArrayVar(&o.visible, "visible", nil, "leave `DIR` of the host visible where the sandbox has its own, as below /tmp *")
	f.StringArrayVar(&o.keys, "authorized-key", nil, "let `FILE|KEY` in by SSH: a public key, or a file of them *")
	f.StringVar(&o.controlPlane, "control-plane", "", "allow `HOST:PORT|URL` whatever the policy says")
	f.StringArrayVar(&o.labels, "label", nil, "label it `K=V` *")
	f.StringArrayVar(&o.annotations, "annotation", nil, "note `K=V` on it *")
}

// spec returns what the flags ask for. Files are read here: they are the caller's.
func (o *sandboxOptions) spec(env Env) (*ringfencev1.SandboxSpec, error) {
	spec := &ringfencev1.SandboxSpec{Providers: o.providers, User: o.user}
	var err error
	if spec.Labels, err = pairs("--label", o.labels); err != nil {
		return nil, err
	}
	if spec.Annotations, err = pairs("--annotation", o.annotations); err != nil {
		return nil, err
	}
	if spec.Environment, err = variables(o.env, env); err != nil {
		return nil, err
	}
	if spec.SshAuthorizedKeys, err = authorizedKeys(o.keys); err != nil {
		return nil, err
	}
	if len(o.policies.Specs) > 0 {
		if spec.Policy, err = policySource(o.policies); err != nil {
			return nil, err
		}
	}
	if o.workdir != "" {
		spec.Workdir = absolute(env, o.workdir)
	}
	for _, dir := range o.visible {
		spec.Visible = append(spec.Visible, absolute(env, dir))
	}
	if o.controlPlane != "" { // of the flag only: an agent's sandboxes are not for our own environment's
		target, err := flow.ParseEndpoint(o.controlPlane)
		if err != nil {
			return nil, unread(hint(fmt.Errorf("--control-plane: %w", err), "write HOST:PORT, or a URL such as https://control.example.com"))
		}
		spec.ControlPlane = target.String()
	}
	return spec, nil
}

func absolute(env Env, dir string) string {
	if filepath.IsAbs(dir) || env.Dir == "" {
		return dir // what is not absolute still, the agent refuses
	}
	return filepath.Join(env.Dir, dir)
}

// policySource reads policies, so that a mistake in a file is told with its place, and
// before anything is made.
func policySource(set source.Set) (*ringfencev1.PolicySource, error) {
	content, err := set.Read()
	if err != nil {
		return nil, unread(err)
	}
	if _, _, err := content.Load(); err != nil {
		return nil, &statusError{err, serviceFailed}
	}
	return sourceOf(content), nil
}

// sourceOf is what was read as the API has it. A shipped policy goes by its name: the
// agent has its own.
func sourceOf(content source.Content) *ringfencev1.PolicySource {
	from := &ringfencev1.PolicySource{}
	for _, p := range content.Policies {
		file := &ringfencev1.PolicyFile{Name: p.Name}
		if _, shipped := policies.Lookup(p.Name); !shipped {
			file.Yaml = p.Data
		}
		from.Files = append(from.Files, file)
	}
	return from
}

// authorizedKeys returns the lines of the keys that are given as such, or as files.
func authorizedKeys(specs []string) (lines []string, err error) {
	for _, spec := range specs {
		text := spec
		if !isKey(spec) {
			data, err := readBounded(spec, maxKeysFile)
			if err != nil {
				return nil, unread(hint(fmt.Errorf("read --authorized-key: %w", err), "name a file of public keys, or give one key without options before it"))
			}
			text = string(data)
		}
		found := false
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines, found = append(lines, line), true
			}
		}
		if !found {
			return nil, unread(fmt.Errorf("--authorized-key %s has no key", spec))
		}
		if strings.Contains(text, "PRIVATE KEY") {
			return nil, unread(hint(fmt.Errorf("--authorized-key %s is a private key", spec), "name the public one, which ends in .pub"))
		}
	}
	return lines, nil
}

// isKey reports whether a text is a public key itself, and no path.
func isKey(spec string) bool {
	for _, kind := range []string{"ssh-", "ecdsa-", "sk-"} {
		if strings.HasPrefix(spec, kind) && strings.Contains(spec, " ") {
			return true
		}
	}
	return false
}

func newSandboxCreate(env Env) *cobra.Command {
	var opts sandboxOptions
	out := output{}
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a sandbox",
		Long:  sandboxCreateLong,
		Example: `  ringfence sandbox create web --policy web.yaml --label team=web
  ringfence sandbox create --policy base --policy gitlab --authorized-key ~/.ssh/id_ed25519.pub`,
		Args: theseArgs("[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			spec, err := opts.spec(env)
			if err != nil {
				return err
			}
			request := &ringfencev1.CreateSandboxRequest{Spec: spec}
			if len(args) > 0 {
				request.Name = args[0]
			}
			return r.call(func(c *api.Client) error {
				shown := startProgress(env.Stderr, saying("creating", request.GetName()))
				made, err := c.Sandboxes.CreateSandbox(cmd.Context(), request)
				shown.end()
				if err != nil {
					return err
				}
				return out.show(env.Stdout, made, func(t *table, wide bool) {
					if wide {
						sandboxRows(t, wide, made)
						return
					}
					t.row(made.GetName())
				})
			})
		},
	}
	opts.addTo(cmd.Flags())
	out.addTo(cmd.Flags(), nounFormats()...)
	r.addTo(cmd.Flags())
	completePolicies(cmd)
	completeProviders(cmd, r, "provider")
	return cmd
}
