package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/source"
	"github.com/ringfence/ringfence/internal/tty"
	"github.com/ringfence/ringfence/policies"
)

const policySetLong = `Sets the policy of a sandbox of the agent: FILEs and names of shipped policies, put
together as one. It returns when the policy is in force, and what it now denies is
closed. One that does not load is refused, and the one of before stays.

The agent keeps the text; a later change of a FILE changes nothing.` + serviceExits

func newPolicySet(env Env) *cobra.Command {
	var out output
	var dryRun bool
	var latest uint64
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "set NAME FILE...",
		Short: "Set the policy of a sandbox of the agent",
		Long:  policySetLong,
		Example: `  ringfence policy set web base web.yaml
  ringfence policy set web web.yaml --dry-run`,
		Args: theseArgs("NAME", "FILE..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			from, err := policySource(source.Set{Specs: args[1:]})
			if err != nil {
				return err
			}
			request := &ringfencev1.SetPolicyRequest{Sandbox: args[0], Source: from, Latest: latest, DryRun: dryRun}
			return r.call(func(c *api.Client) error {
				shown := startProgress(env.Stderr, saying("setting the policy of", args[0]))
				revision, err := c.Policies.SetPolicy(cmd.Context(), request)
				shown.end()
				if err != nil {
					return err
				}
				for _, warning := range revision.GetWarnings() {
					fmt.Fprintf(env.Stderr, "warning: %s\n", event.Prose(warning))
				}
				return out.show(env.Stdout, revision, func(t *table, wide bool) {
					if dryRun {
						t.row("it would load")
						return
					}
					revisionRows(t, wide, revision)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say whether it would load")
	cmd.Flags().Uint64Var(&latest, "latest", 0, "only if the revision `N` is the latest still")
	out.addTo(cmd.Flags(), nounFormats()...)
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeSandboxThenPolicies(r)
	return cmd
}

const policyGetLong = `Prints the policy of a sandbox of the agent, as it was set: the one in force, or a
revision. Several files are YAML documents one after the other, each below a comment
with its name.` + serviceExits

func newPolicyGet(env Env) *cobra.Command {
	var out output
	var revision uint64
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "Print the policy of a sandbox of the agent",
		Long:  policyGetLong,
		Args:  theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return r.call(func(c *api.Client) error {
				got, err := c.Policies.GetPolicy(cmd.Context(), &ringfencev1.GetPolicyRequest{Sandbox: args[0], Revision: revision})
				if err != nil {
					return err
				}
				if out.value != "text" {
					return out.showMessage(env.Stdout, got)
				}
				text := policyText(got)
				if tty.IsTerminal(env.Stdout) {
					text = printable(text) // a file may hold anything
				}
				_, err = env.Stdout.WriteString(text)
				return err
			})
		},
	}
	cmd.Flags().Uint64Var(&revision, "revision", 0, "the revision `N` (default: the one in force)")
	out.addTo(cmd.Flags(), "text", "json", "yaml")
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeSandbox(r, 1)
	return cmd
}

// policyText is the text of a revision. Of a shipped policy, which
// goes by its name, it is the one that we have: that of another version may differ.
func policyText(revision *ringfencev1.PolicyRevision) string {
	files := revision.GetSource().GetFiles()
	if len(files) == 0 {
		files = []*ringfencev1.PolicyFile{{Name: "default"}}
	}
	var b strings.Builder
	for i, file := range files {
		if i > 0 {
			b.WriteString("---\n")
		}
		text, note := file.GetYaml(), ""
		if shipped, ok := policies.Lookup(file.GetName()); ok && len(text) == 0 {
			text, note = shipped.Data, ", which is shipped"
		}
		fmt.Fprintf(&b, "# %s%s\n%s", quoted(file.GetName()), note, text)
		if len(text) > 0 && text[len(text)-1] != '\n' {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func newPolicyRevisions(env Env) *cobra.Command {
	var out output
	var most uint32
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "revisions NAME",
		Short: "List what was set as the policy of a sandbox",
		Long: `Lists the revisions of a sandbox's policy, the newest first, and which of them are in
force, were, or failed.` + serviceExits,
		Args: theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if most == 0 {
				return unread(errors.New("--number is 0"))
			}
			return r.call(func(c *api.Client) error {
				all, err := someRevisions(cmd.Context(), c, args[0], int(most))
				if err != nil {
					return err
				}
				list := &ringfencev1.ListPolicyRevisionsResponse{Revisions: all}
				return out.show(env.Stdout, list, func(t *table, wide bool) { revisionRows(t, wide, all...) })
			})
		},
	}
	cmd.Flags().Uint32VarP(&most, "number", "n", 20, "at most `N` of them")
	out.addTo(cmd.Flags(), nounFormats()...)
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeSandbox(r, 1)
	return cmd
}

func someRevisions(ctx context.Context, c *api.Client, name string, most int) ([]*ringfencev1.PolicyRevision, error) {
	var all []*ringfencev1.PolicyRevision
	request := &ringfencev1.ListPolicyRevisionsRequest{Sandbox: name}
	for {
		request.PageSize = uint32(min(most-len(all), listPage))
		page, err := c.Policies.ListPolicyRevisions(ctx, request)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetRevisions()...)
		request.PageToken = page.GetNextPageToken()
		if request.GetPageToken() == "" || len(all) >= most {
			return all[:min(most, len(all))], nil
		}
	}
}

// shownDigest is how many digits of a digest tell a sandbox's policies apart.
const shownDigest = 12

func revisionRows(t *table, wide bool, revisions ...*ringfencev1.PolicyRevision) {
	header := []string{"REVISION", "STATE", "SET", "DIGEST", "ERROR"}
	if wide {
		header = append(header, "LOADED")
	}
	t.row(header...)
	for _, r := range revisions {
		digest := r.GetDigest()
		if !wide {
			digest = digest[:min(len(digest), shownDigest)]
		}
		row := []string{
			decimal(r.GetRevision()), strings.ToLower(r.GetState().String()), clock(r.GetCreateTime()),
			digest, firstLine(r.GetError()),
		}
		if wide {
			row = append(row, clock(r.GetLoadTime()))
		}
		t.row(row...)
	}
}

func firstLine(text string) string {
	first, _, more := strings.Cut(text, "\n")
	if more {
		return first + " …"
	}
	return first
}
