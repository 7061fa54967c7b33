package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	pathpkg "path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
)

const explainLong = `Says what a policy decides about one connection, or one request on it, and why:
what matched, or what came nearest and what to add.

The program is the file that the kernel runs: a symbolic link is followed, a script
is its interpreter. --ancestor names the programs that started it, the nearest
first. Flags marked * may be repeated.

Of a request it says what the endpoint's rules decide. This version inspects no
requests, so no connection is made to such an endpoint as yet.

Exit status: 0 when it is allowed (or audited); 1 when it is denied, or the policy
does not load; 2 when the question could not be put.`

const explainExample = `  ringfence policy explain --binary /usr/bin/git --host github.com
  ringfence policy explain --policy my.yaml --binary /usr/bin/node --ancestor /usr/local/bin/claude \
      --host api.example.com --port 443 --method POST --path '/v1/items?dry_run=1'`

// explainOptions are the flags of explain as they were typed.
type explainOptions struct {
	set       source.Set
	view      viewOptions
	out       output
	binary    string
	ancestors []string
	taints    []string
	sha256    string
	host      string
	port      string
	method    string
	path      string
}

func newPolicyExplain(env Env, status *int) *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:     "explain --binary PATH --host HOST [flags]",
		Short:   "Explain what is decided for a program and a target",
		Long:    explainLong,
		Example: explainExample,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := o.out.check(); err != nil {
				return err
			}
			*status, err = o.explain(cmd.Context(), env)
			return err
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.set.Specs, "policy", nil, "policy `FILE|NAME`; several make one (default \"default\") *")
	f.StringVar(&o.set.RegoDir, "rego", "", "narrow it by the Rego modules in `DIR`")
	f.StringVar(&o.binary, "binary", "", "the program's `PATH` in the sandbox")
	f.StringArrayVar(&o.ancestors, "ancestor", nil, "a program that started it, by `PATH`, the nearest first *")
	f.StringArrayVar(&o.taints, "taint", nil, "suppose that the program has `TAINT` *")
	f.StringVar(&o.sha256, "sha256", "", "suppose that the program's file has this `HASH` (default: its own)")
	f.StringVar(&o.host, "host", "", "the `HOST` it connects to: a name or an address")
	f.StringVar(&o.port, "port", "443", "the `PORT` it connects to")
	f.StringVar(&o.method, "method", "", "the request's `METHOD` (default: GET, where there is a path)")
	f.StringVar(&o.path, "path", "", "the request's `PATH`, and query")
	o.view.addTo(f)
	o.out.addTo(f, "text", "json")
	completePolicies(cmd)
	return cmd
}

func (o *explainOptions) explain(ctx context.Context, env Env) (int, error) {
	if o.binary == "" || o.host == "" {
		return 0, unread(hint(errors.New("explain needs --binary and --host"), "ringfence policy explain --help shows an example"))
	}
	p, err := loadSet(o.set)
	if err != nil {
		return 0, err
	}
	v, notes, err := o.view.open(env, p)
	if err != nil {
		return 0, err
	}
	defer v.close()
	q, more, err := o.question(v)
	if err != nil {
		return 0, unread(err)
	}
	notes = append(notes, more...)
	engine, err := policy.NewEngine(ctx, p, policy.Config{CacheSize: 1})
	if err != nil {
		return 0, unread(err)
	}
	if err := engine.Replace(ctx, p, v.links(p)); err != nil {
		return 0, unread(err)
	}
	x := engine.Explain(*q)
	if o.out.value == "json" {
		err = writeJSON(env.Stdout, explanationJSON(q, x, notes))
	} else {
		_, err = fmt.Fprint(env.Stdout, printable(explanationText(q, x, notes)))
	}
	if err != nil || x.Decision.Verdict.Passes() && x.Dial == "" {
		return policyFine, err
	}
	return policyFaulty, nil
}

// question turns the flags into what the policy is asked.
func (o *explainOptions) question(v *view) (*policy.Question, []string, error) {
	image, notes, err := v.image("--binary", o.binary)
	if err != nil {
		return nil, nil, err
	}
	if hash, err := explainHash(o.sha256); err != nil {
		return nil, nil, err
	} else if hash != "" {
		image.SHA256 = hash
	}
	for _, name := range o.taints {
		taint, known := flow.ParseTaint(name)
		if !known {
			return nil, nil, hint(fmt.Errorf("--taint %q is unknown", name), "there are "+strings.Join(flow.TaintNames(), ", "))
		}
		image.Taints |= taint
	}
	var ancestors []flow.Image
	for _, path := range o.ancestors {
		ancestor, more, err := v.image("--ancestor", path)
		if err != nil {
			return nil, nil, err
		}
		ancestors, notes = append(ancestors, ancestor), append(notes, more...)
	}
	target, err := explainTarget(o.host, o.port)
	if err != nil {
		return nil, nil, err
	}
	q := &policy.Question{Identity: flow.NewIdentity(image, v.user.UID, v.user.GID, ancestors), Target: target}
	if o.method != "" || o.path != "" {
		if q.Request, err = explainRequest(o.method, o.path); err != nil {
			return nil, nil, err
		}
	}
	return q, notes, nil
}

func explainHash(text string) (string, error) {
	hash := strings.ToLower(text)
	if hash != "" && (len(hash) != 64 || strings.Trim(hash, "0123456789abcdef") != "") {
		return "", fmt.Errorf("--sha256 %q is not 64 hexadecimal digits", text)
	}
	return hash, nil
}

func explainTarget(host, portText string) (flow.Target, error) {
	port, err := flow.ParsePort(portText)
	if err != nil {
		return flow.Target{}, fmt.Errorf("--port %q is not a port (1-65535)", portText)
	}
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && addr.Zone() == "" {
		return flow.AddrTarget(netip.AddrPortFrom(addr, port)), nil
	}
	target, err := flow.NewTarget(host, port)
	if err != nil {
		return flow.Target{}, hint(fmt.Errorf("--host %s", policy.HostFault(host, err)), "write a name such as api.example.com; the port goes to --port, a path to --path")
	}
	return target, nil
}

func explainRequest(method, path string) (*flow.Request, error) {
	method = strings.ToUpper(cmp.Or(method, http.MethodGet))
	if strings.ContainsFunc(method, func(c rune) bool { return (c < 'A' || c > 'Z') && c != '-' }) {
		return nil, fmt.Errorf("--method %q is not a method", method)
	}
	text, query, _ := strings.Cut(path, "?")
	text = cmp.Or(text, "/")
	if !strings.HasPrefix(text, "/") || text != "/" && strings.TrimSuffix(text, "/") != pathpkg.Clean(text) {
		return nil, hint(fmt.Errorf("--path %q is not a path as requests are judged by", text), "it starts with /, without //, . and ..")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("--path: query: %w", err)
	}
	return &flow.Request{Method: method, Path: text, Query: values}, nil
}
