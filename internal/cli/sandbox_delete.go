package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

const sandboxDeleteLong = `Ends every process of a sandbox and removes all of it. It returns when nothing is
left. With several names, what can be deleted is, and the rest is told.` + serviceExits

func newSandboxDelete(env Env) *cobra.Command {
	var all, yes, missing bool
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:     "delete NAME...",
		Aliases: []string{"rm"},
		Short:   "End a sandbox and remove it",
		Long:    sandboxDeleteLong,
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return noArgs(cmd, args)
			}
			return theseArgs("NAME...")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all && !yes {
				return unread(hint(errors.New("--all deletes every sandbox of the agent"), "say --yes as well if that is meant"))
			}
			return r.call(func(c *api.Client) error {
				names := args
				if all {
					missing = true // another may delete one meanwhile
					present, err := allSandboxes(cmd.Context(), c, nil)
					if err != nil {
						return err
					}
					for _, s := range present {
						names = append(names, s.GetName())
					}
				}
				return deleteSandboxes(cmd.Context(), c, env, names, missing)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&missing, "allow-missing", false, "a NAME that there is not is no error")
	f.BoolVar(&all, "all", false, "delete all sandboxes")
	f.BoolVar(&yes, "yes", false, "yes, all")
	r.addTo(f)
	cmd.ValidArgsFunction = completeSandbox(r, anyNumber)
	return cmd
}

func deleteSandboxes(ctx context.Context, c *api.Client, env Env, names []string, missing bool) error {
	var errs []error
	for _, name := range names {
		shown := startProgress(env.Stderr, saying("deleting", name))
		_, err := c.Sandboxes.DeleteSandbox(ctx, &ringfencev1.DeleteSandboxRequest{Name: name, AllowMissing: missing})
		shown.end()
		if err != nil {
			errs = append(errs, refused(err))
			continue
		}
		fmt.Fprintf(env.Stderr, "deleted %s\n", quoted(name))
	}
	return errors.Join(errs...)
}
