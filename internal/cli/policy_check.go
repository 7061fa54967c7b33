package cli

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
)

// finding is a problem or a warning, as JSON has it. The name of the file is escaped as
// in records: a backslash is doubled, and a byte that is no UTF-8 is \xNN.
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

// MarshalJSON implements json.Marshaler.
func (f finding) MarshalJSON() ([]byte, error) {
	type plain finding
	f.File = event.Escape(f.File)
	return json.Marshal(plain(f))
}

// text returns "file:line:column: kind: field: message", which editors read.
func (f finding) text(kind string) string {
	s := fmt.Sprintf("%s:%d:%d: %s: ", quoteText(f.File), f.Line, f.Column, kind)
	if f.Field != "" {
		s += f.Field + ": "
	}
	return s + f.Message
}

// checked is what a check found.
type checked struct {
	OK       bool      `json:"ok"`
	Policies int       `json:"policies"` // 0 where they do not load
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
with its place and what was probably meant. A plain word is the name of a shipped
policy; write ./NAME for a file of that name.

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
	cmd.Flags().BoolVar(&strict, "strict", false, "fail for warnings as well, such as what this version does not enforce")
	cmd.ValidArgsFunction = completePolicy
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
		fmt.Fprintln(env.Stdout, event.Prose(f.text("error")))
	}
	for _, f := range c.Warnings {
		fmt.Fprintln(env.Stdout, event.Prose(f.text("warning")))
	}
	word := "not ok: "
	if c.OK {
		word = "ok: " + count(c.Policies, "network policy, ", "network policies, ")
	}
	_, err := fmt.Fprintf(env.Stderr, "%s%s, %s\n", word,
		count(len(c.Errors), "error", "errors"), count(len(c.Warnings), "warning", "warnings"))
	return err
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
