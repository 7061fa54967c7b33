package cli

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/source"
	"github.com/ringfence/ringfence/internal/tty"
)

func newPolicyShow(env Env) *cobra.Command {
	var out output
	var opts viewOptions
	var raw bool
	cmd := &cobra.Command{
		Use:   "show [FILE...]",
		Short: "Show a policy as it is composed and resolved",
		Long: `Shows policy files as the one policy that they make (default: "default"), in
canonical form, as YAML that loads again. Comments say where each part was
defined, and where paths of programs lead that are symbolic links. (The JSON is for
programs, and does not load again.)

With --raw, the text of one shipped policy as it is, to start a file from.`,
		Example: `  ringfence policy show base gitlab
  ringfence policy show --raw base > my.yaml`,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			set := source.Set{Specs: args}
			if raw && out.value != "yaml" {
				return unread(errors.New("--raw prints the text as it is; leave --output out"))
			}
			if raw {
				return showRaw(env, set)
			}
			return showPolicy(env, set, &opts, out.value)
		},
	}
	out.addTo(cmd.Flags(), "yaml", "json")
	opts.addTo(cmd.Flags())
	cmd.Flags().BoolVar(&raw, "raw", false, "print the text as it is")
	cmd.ValidArgsFunction = completePolicy
	return cmd
}

func showRaw(env Env, set source.Set) error {
	content, err := set.Read()
	if err != nil {
		return unread(err)
	}
	if len(content.Policies) != 1 {
		return unread(hint(errors.New("--raw shows one policy, not "+strconv.Itoa(len(content.Policies))), "without --raw several are shown as one"))
	}
	text := content.Policies[0].Data
	if tty.IsTerminal(env.Stdout) {
		text = []byte(printable(string(text))) // a file may hold anything
	}
	_, err = env.Stdout.Write(text)
	return err
}

func showPolicy(env Env, set source.Set, opts *viewOptions, format string) error {
	p, err := loadSet(set)
	if err != nil {
		return err
	}
	v, notes, err := opts.open(env, p)
	if err != nil {
		return err
	}
	defer v.close()
	for _, note := range notes {
		fmt.Fprintln(env.Stderr, "note: "+event.Prose(note))
	}
	write := p.YAML
	if format == "json" {
		write = p.JSON
	}
	text, err := write(v.links(p))
	if err != nil {
		return err
	}
	if format == "json" {
		text = event.AppendPrintable(nil, append(text, '\n'))
	}
	_, err = env.Stdout.Write(text)
	return err
}
