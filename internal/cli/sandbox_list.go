package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/event"
)

// listPage is how many things are asked for at once.
const listPage = 500

func newSandboxList(env Env) *cobra.Command {
	var labels []string
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the sandboxes",
		Long: `Lists the sandboxes in the order of their names: in which phase each is, by which
revision of its policy it goes, and what was allowed and denied since it was made.` + serviceExits,
		Example: `  ringfence sandbox list --label team=web
  ringfence sandbox list -o json | jq -r '.sandboxes[].name'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			wanted, err := pairs("--label", labels)
			if err != nil {
				return err
			}
			return r.call(func(c *api.Client) error {
				all, err := allSandboxes(cmd.Context(), c, wanted)
				if err != nil {
					return err
				}
				list := &ringfencev1.ListSandboxesResponse{Sandboxes: all}
				return out.show(env.Stdout, list, func(t *table, wide bool) { sandboxRows(t, wide, all...) })
			})
		},
	}
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only those with the label `K=V`; several: with all *")
	out.addTo(cmd.Flags(), nounFormats()...)
	r.addTo(cmd.Flags())
	return cmd
}

// allSandboxes asks for page after page.
func allSandboxes(ctx context.Context, c *api.Client, labels map[string]string) ([]*ringfencev1.Sandbox, error) {
	var all []*ringfencev1.Sandbox
	request := &ringfencev1.ListSandboxesRequest{PageSize: listPage, Labels: labels}
	for {
		page, err := c.Sandboxes.ListSandboxes(ctx, request)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetSandboxes()...)
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			return all, nil
		}
	}
}

func sandboxRows(t *table, wide bool, sandboxes ...*ringfencev1.Sandbox) {
	header := []string{"NAME", "PHASE", "POLICY", "ALLOWED", "DENIED", "PROCESSES", "AGE"}
	if wide {
		header = append(header, "UID", "SSH", "GENERATION", "LABELS", "PROVIDERS", "ID")
	}
	t.row(header...)
	now := time.Now()
	for _, s := range sandboxes {
		status := s.GetStatus()
		row := []string{
			s.GetName(), phase(s), revisionText(status), decimal(status.GetAllowed()), decimal(status.GetDenied()),
			decimal(uint64(status.GetProcesses())), age(s.GetCreateTime(), now),
		}
		if wide {
			row = append(row, decimal(uint64(status.GetUid())), decimal(uint64(status.GetSshConnections())),
				decimal(status.GetGeneration()), keyValues(s.GetSpec().GetLabels()), strings.Join(s.GetSpec().GetProviders(), ","), s.GetId())
		}
		t.row(row...)
	}
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// revisionText is the revision in force, and that a newer one is not.
func revisionText(status *ringfencev1.SandboxStatus) string {
	text := decimal(status.GetPolicyRevision())
	if latest := status.GetPolicyRevisionLatest(); latest > status.GetPolicyRevision() {
		text += " (" + decimal(latest) + " is not in force)"
	}
	return text
}

func newSandboxShow(env Env) *cobra.Command {
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show one sandbox",
		Long:  "Shows all that the agent tells of one sandbox." + serviceExits,
		Args:  theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return r.call(func(c *api.Client) error {
				s, err := c.Sandboxes.GetSandbox(cmd.Context(), &ringfencev1.GetSandboxRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return out.show(env.Stdout, s, func(t *table, wide bool) { sandboxFields(t, wide, s) })
			})
		},
	}
	out.addTo(cmd.Flags(), nounFormats()...)
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeSandbox(r, 1)
	return cmd
}

func sandboxFields(t *table, wide bool, s *ringfencev1.Sandbox) {
	spec, status := s.GetSpec(), s.GetStatus()
	t.field("name", s.GetName())
	t.field("phase", phase(s))
	t.field("reason", status.GetReason())
	t.field("policy", policyNames(spec.GetPolicy()))
	t.field("revision", revisionText(status))
	t.field("user", spec.GetUser())
	if uid := status.GetUid(); uid != 0 { // nothing runs, and root's never
		t.field("uid", decimal(uint64(uid)))
	}
	t.field("workdir", spec.GetWorkdir())
	t.field("visible", strings.Join(spec.GetVisible(), ", "))
	t.field("providers", strings.Join(spec.GetProviders(), ", "))
	t.field("control plane", spec.GetControlPlane())
	t.field("labels", keyValues(spec.GetLabels()))
	t.field("annotations", keyValues(spec.GetAnnotations()))
	t.field("environment", keyValues(spec.GetEnvironment()))
	t.field("SSH keys", keysText(spec.GetSshAuthorizedKeys(), wide))
	t.field("SSH connections", decimal(uint64(status.GetSshConnections())))
	t.field("processes", decimal(uint64(status.GetProcesses())))
	t.field("allowed", decimal(status.GetAllowed()))
	t.field("denied", decimal(status.GetDenied()))
	t.field("rejected", keyValues(status.GetRejected()))
	t.field("created", clock(s.GetCreateTime()))
	t.field("started", clock(status.GetStartTime()))
	if wide {
		t.field("id", s.GetId())
		t.field("version", decimal(s.GetVersion()))
		t.field("generation", decimal(status.GetGeneration()))
		t.field("cgroup id", decimal(status.GetCgroupId()))
		t.field("netns cookie", decimal(status.GetNetnsCookie()))
	}
}

func policyNames(source *ringfencev1.PolicySource) string {
	var names []string
	for _, file := range source.GetFiles() {
		names = append(names, file.GetName())
	}
	if len(names) == 0 {
		return "default"
	}
	return strings.Join(names, ", ")
}

func keysText(keys []string, wide bool) string {
	if len(keys) == 0 || wide {
		return strings.Join(keys, ", ")
	}
	return strconv.Itoa(len(keys))
}

func newSandboxWatch(env Env) *cobra.Command {
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "watch [NAME]",
		Short: "Show sandboxes as they are, and then each change",
		Long: `Shows every sandbox (or the one) as it is, and then a line for each change, until it
is interrupted.` + serviceExits,
		Args: theseArgs("[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			request := &ringfencev1.WatchSandboxesRequest{Name: strings.Join(args, "")}
			return r.call(func(c *api.Client) error {
				stream, err := c.Sandboxes.WatchSandboxes(cmd.Context(), request)
				if err != nil {
					return err
				}
				for {
					change, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						return nil
					}
					if err != nil {
						return err
					}
					if err := showChange(env, &out, change); err != nil {
						return err
					}
				}
			})
		},
	}
	out.addTo(cmd.Flags(), "text", "json", "yaml")
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeSandbox(r, 1)
	return cmd
}

func showChange(env Env, out *output, change *ringfencev1.SandboxEvent) error {
	if out.value != "text" {
		return out.showLine(env.Stdout, change)
	}
	if change.GetType() == ringfencev1.SandboxEvent_SYNCED {
		return nil // a mark for programs
	}
	s := change.GetSandbox()
	words := []string{
		time.Now().Format(time.TimeOnly), strings.ToLower(change.GetType().String()), s.GetName(), phase(s),
		"policy " + revisionText(s.GetStatus()),
	}
	if reason := s.GetStatus().GetReason(); reason != "" {
		words = append(words, reason)
	}
	for i := range words {
		words[i] = event.Quote(words[i])
	}
	_, err := fmt.Fprintln(env.Stdout, strings.Join(slices.Clip(words), "  "))
	return err
}
