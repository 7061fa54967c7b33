package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

const providerLong = `Providers are services to which the agent has credentials. A sandbox that names one may
have them used for it, and never sees them. Nor does anybody here: they are written,
and not shown.`

func newProvider(env Env) *cobra.Command {
	cmd := noun("provider", "Keep credentials that sandboxes use and never see", providerLong,
		newProviderCreate(env), newProviderList(env), newProviderShow(env), newProviderUpdate(env), newProviderDelete(env))
	cmd.Aliases = []string{"providers"}
	return cmd
}

func newProviderList(env Env) *cobra.Command {
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the providers",
		Long:    "Lists the providers, with the names of their credentials." + serviceExits,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return r.call(func(c *api.Client) error {
				all, err := allProviders(cmd.Context(), c)
				if err != nil {
					return err
				}
				list := &ringfencev1.ListProvidersResponse{Providers: all}
				return out.show(env.Stdout, list, func(t *table, wide bool) { providerRows(t, wide, all...) })
			})
		},
	}
	out.addTo(cmd.Flags(), nounFormats()...)
	r.addTo(cmd.Flags())
	return cmd
}

// allProviders asks for page after page.
func allProviders(ctx context.Context, c *api.Client) ([]*ringfencev1.Provider, error) {
	var all []*ringfencev1.Provider
	request := &ringfencev1.ListProvidersRequest{PageSize: listPage}
	for {
		page, err := c.Providers.ListProviders(ctx, request)
		if err != nil {
			return nil, err
		}
		for _, p := range page.GetProviders() {
			all = append(all, withoutSecrets(p))
		}
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			return all, nil
		}
	}
}

// withoutSecrets leaves the credentials out. An agent does not send any; this is for one
// that does.
func withoutSecrets(p *ringfencev1.Provider) *ringfencev1.Provider {
	p.Credentials = nil
	return p
}

func providerRows(t *table, wide bool, providers ...*ringfencev1.Provider) {
	header := []string{"NAME", "TYPE", "CREDENTIALS", "AGE"}
	if wide {
		header = append(header, "CONFIG", "UPDATED", "VERSION")
	}
	t.row(header...)
	now := time.Now()
	for _, p := range providers {
		row := []string{p.GetName(), p.GetType(), credentialNames(p), age(p.GetCreateTime(), now)}
		if wide {
			row = append(row, keyValues(p.GetConfig()), clock(p.GetUpdateTime()), decimal(p.GetVersion()))
		}
		t.row(row...)
	}
}

func credentialNames(p *ringfencev1.Provider) string {
	names := slices.Clone(p.GetCredentialNames())
	slices.Sort(names)
	return strings.Join(names, ",")
}

func newProviderShow(env Env) *cobra.Command {
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show one provider, without its secrets",
		Long:  "Shows one provider. Of its credentials there are the names only." + serviceExits,
		Args:  theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return r.call(func(c *api.Client) error {
				p, err := c.Providers.GetProvider(cmd.Context(), &ringfencev1.GetProviderRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return out.show(env.Stdout, withoutSecrets(p), func(t *table, _ bool) {
					t.field("name", p.GetName())
					t.field("type", p.GetType())
					t.field("credentials", credentialNames(p))
					t.field("config", keyValues(p.GetConfig()))
					t.field("created", clock(p.GetCreateTime()))
					t.field("updated", clock(p.GetUpdateTime()))
					t.field("version", decimal(p.GetVersion()))
				})
			})
		},
	}
	out.addTo(cmd.Flags(), nounFormats()...)
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeProvider(r)
	return cmd
}

func newProviderDelete(env Env) *cobra.Command {
	var missing bool
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Aliases: []string{"rm"},
		Short:   "Forget a provider and its credentials",
		Long:    "Forgets a provider and its credentials. One that a sandbox names is not forgotten." + serviceExits,
		Args:    theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.call(func(c *api.Client) error {
				_, err := c.Providers.DeleteProvider(cmd.Context(), &ringfencev1.DeleteProviderRequest{Name: args[0], AllowMissing: missing})
				if err == nil {
					fmt.Fprintf(env.Stderr, "deleted %s\n", quoted(args[0]))
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&missing, "allow-missing", false, "that there is none is no error")
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeProvider(r)
	return cmd
}
