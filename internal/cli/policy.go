package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/event"
)

// Exit statuses of the policy commands.
const (
	policyFine   = 0
	policyFaulty = 1 // it does not load; explain: it denies
	policyUnread = 2 // the question could not be put
)

const policyLong = `Checks, shows and explains policies. Where a FILE is wanted, a plain word is the name
of a shipped policy (see "list"); write ./NAME for a file of that name.

"set", "get" and "revisions" are about the policy of a sandbox of the running agent.
The others need no agent and no root, and change nothing.`

func newPolicy(env Env, status *int) *cobra.Command {
	cmd := &cobra.Command{
		Use:                        "policy",
		Short:                      "Check, show, explain and set policies",
		Long:                       policyLong,
		SuggestionsMinimumDistance: 2,
		Args:                       func(cmd *cobra.Command, args []string) error { return unread(noSuchCommand(cmd, args)) },
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return unread(hint(err, cmd.CommandPath()+" --help lists the flags"))
	})
	cmd.AddCommand(newPolicyCheck(env, status), newPolicyExplain(env, status), newPolicyList(env),
		newPolicySchema(env), newPolicyShow(env), newPolicySet(env), newPolicyGet(env), newPolicyRevisions(env))
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

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unread(hint(fmt.Errorf("unexpected argument %q", args[0]), cmd.CommandPath()+" --help shows the usage"))
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

// writeJSON writes JSON that may be shown on a terminal as it is.
func writeJSON(out io.Writer, value any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	_, err := out.Write(event.AppendPrintable(nil, text.Bytes()))
	return err
}

// printable leaves nothing in lines of text that a terminal would obey. What others
// chose is quoted in them already; this is for what was forgotten.
func printable(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = event.Prose(line)
	}
	return strings.Join(lines, "\n")
}
