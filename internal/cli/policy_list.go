package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/policies"
)

func newPolicyList(env Env) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the shipped policies",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return listPolicies(env.Stdout, out.value)
		},
	}
	out.addTo(cmd.Flags(), "text", "json")
	return cmd
}

func listPolicies(out io.Writer, format string) error {
	if format == "json" {
		type shipped struct {
			Name    string `json:"name"`
			Summary string `json:"summary"`
		}
		list := []shipped{}
		for _, p := range policies.All() {
			list = append(list, shipped{p.Name, p.Summary})
		}
		return writeJSON(out, list)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tWHAT IT IS FOR")
	for _, p := range policies.All() {
		fmt.Fprintf(table, "%s\t%s\n", p.Name, p.Summary)
	}
	return table.Flush()
}

func newPolicySchema(env Env) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a policy file",
		Long: `Prints the JSON Schema of a policy file. Editors with a YAML language server use
it for completion and checks when the file begins with a line that names it.`,
		Example: `  ringfence policy schema > policy.schema.json
  # and in the policy: # yaml-language-server: $schema=policy.schema.json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := env.Stdout.Write(policies.Schema)
			return err
		},
	}
}
