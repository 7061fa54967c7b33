package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
	"github.com/ringfence/ringfence/policies"
)

// Exit statuses of the policy commands.
const (
	policyFine   = 0
	policyFaulty = 1 // it does not load; explain: it denies
	policyUnread = 2 // the question could not be put
)

const policyLong = `Checks, shows and explains policies. None of these commands needs root or changes
anything. Where a FILE is wanted, a plain word is the name of a shipped policy
(see "list"); write ./NAME for a file of that name.`

func newPolicy(env Env, status *int) *cobra.Command {
	cmd := &cobra.Command{
		Use:                        "policy",
		Short:                      "Check, show and explain policies",
		Long:                       policyLong,
		SuggestionsMinimumDistance: 2,
		Args:                       func(cmd *cobra.Command, args []string) error { return unread(noSuchCommand(cmd, args)) },
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return unread(hint(err, cmd.CommandPath()+" --help lists the flags"))
	})
	cmd.AddCommand(newPolicyCheck(env, status), newPolicyExplain(env, status), newPolicyList(env, status),
		newPolicySchema(env), newPolicyShow(env, status))
	return cmd
}

// statusError ends a command with an exit status of its own.
type statusError struct {
	error
	status int
}

func (e *statusError) Unwrap() error { return e.error }

// unread makes an error one of the question, not of the policy.
func unread(err error) error {
	if err == nil {
		return nil
	}
	return &statusError{err, policyUnread}
}

// output is the value of a flag -o.
type output struct {
	value   string
	formats []string // the first is the default
}

func (o *output) addTo(f *pflag.FlagSet, formats ...string) {
	o.value, o.formats = formats[0], formats
	f.StringVarP(&o.value, "output", "o", formats[0], "write `"+strings.Join(formats, "|")+"`")
}

func (o *output) check() error {
	if !slices.Contains(o.formats, o.value) {
		return unread(hint(fmt.Errorf("--output %q is unknown", o.value), "it may be "+strings.Join(o.formats, ", ")))
	}
	return nil
}

func writeJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func newPolicyList(env Env, _ *int) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the shipped policies",
		Args:  cobra.NoArgs,
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
	fmt.Fprintln(table, "NAME\tWHAT IT OPENS")
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
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := env.Stdout.Write(policies.Schema)
			return err
		},
	}
}

// finding is a problem or a warning, as JSON has it.
type finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message,omitempty"`
}

func findingOf(p policy.Place, message string) finding {
	return finding{p.File, p.Line, p.Column, p.Field, message}
}

// text returns "file:line:column: kind: field: message", which editors read.
func (f finding) text(kind string) string {
	s := fmt.Sprintf("%s:%d:%d: %s: ", f.File, f.Line, f.Column, kind)
	if f.Field != "" {
		s += f.Field + ": "
	}
	return s + f.Message
}

// checked is what a check found.
type checked struct {
	OK       bool      `json:"ok"`
	Policies int       `json:"policies"`
	Errors   []finding `json:"errors"`
	Warnings []finding `json:"warnings"`
}

func newPolicyCheck(env Env, status *int) *cobra.Command {
	var out output
	var rego string
	var strict bool
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Check that policy files load, together",
		Long: `Checks policy files as one policy, and tells everything that is wrong with them,
with its place and what was probably meant.

Exit status: 0 when they load; 1 when they do not (with --strict: or have
warnings); 2 when they could not be read.`,
		Example: `  ringfence policy check my.yaml
  ringfence policy check base gitlab team.yaml --rego ./rules -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return unread(hint(errors.New("there is nothing to check"), "name policy files, or shipped policies: ringfence policy list"))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) (err error) {
			if err := out.check(); err != nil {
				return err
			}
			*status, err = checkPolicies(env, source.Set{Specs: args, RegoDir: rego}, out.value, strict)
			return err
		},
	}
	out.addTo(cmd.Flags(), "text", "json")
	cmd.Flags().StringVar(&rego, "rego", "", "check the Rego modules in `DIR` as well")
	cmd.Flags().BoolVar(&strict, "strict", false, "fail for warnings as well")
	return cmd
}

func checkPolicies(env Env, set source.Set, format string, strict bool) (int, error) {
	content, err := set.Read()
	if err != nil {
		return 0, unread(err)
	}
	p, warnings, err := content.Load()
	var problems policy.LoadError
	if err != nil && !errors.As(err, &problems) {
		return 0, unread(err)
	}
	result := checked{OK: err == nil && (!strict || len(warnings) == 0), Errors: []finding{}, Warnings: []finding{}}
	if p != nil {
		result.Policies = p.Len()
	}
	for _, problem := range problems {
		result.Errors = append(result.Errors, findingOf(problem.Place, problem.Message))
	}
	for _, w := range warnings {
		result.Warnings = append(result.Warnings, findingOf(w.Place, w.Message))
	}
	if err := result.write(env, format); err != nil {
		return 0, err
	}
	if !result.OK {
		return policyFaulty, nil
	}
	return policyFine, nil
}

// write tells the findings; a text for a person ends in a word on all of them.
func (c *checked) write(env Env, format string) error {
	if format == "json" {
		return writeJSON(env.Stdout, c)
	}
	for _, f := range c.Errors {
		fmt.Fprintln(env.Stdout, f.text("error"))
	}
	for _, f := range c.Warnings {
		fmt.Fprintln(env.Stdout, f.text("warning"))
	}
	verdict := "ok"
	if !c.OK {
		verdict = "not ok"
	}
	_, err := fmt.Fprintf(env.Stderr, "%s: %s, %s, %s\n", verdict,
		count(c.Policies, "network policy", "network policies"), count(len(c.Errors), "error", "errors"), count(len(c.Warnings), "warning", "warnings"))
	return err
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
