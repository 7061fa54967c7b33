package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/tty"
)

const execLong = `Runs COMMAND (default: the user's shell) in the sandbox NAME, as the sandbox's user and
with its environment. On a terminal it gets one of its own; otherwise its output and
its errors stay apart, and it reads the standard input to its end.

Signals that ask this command to end (INT, TERM, HUP, QUIT) are COMMAND's. It ends
when this command or the agent does; with -d it is not attached, goes on without
both, and its number is printed.

Flags may stand before NAME, or between NAME and COMMAND. Those marked * may be repeated.

Exit status: COMMAND's; 128+n when signal n ended it; 125 when Ringfence itself
failed; 126 and 127 when COMMAND could not be run or found.`

const execExample = `  ringfence sandbox exec web                      # a shell
  ringfence sandbox exec web -- git fetch
  tar c src | ringfence sandbox exec web --workdir /home/web -- tar x
  ringfence sandbox exec -d web -- ./server`

// execOptions are the flags of exec as they were typed.
type execOptions struct {
	terminal   bool
	noTerminal bool
	detach     bool
	env        []string
	workdir    string
	timeout    time.Duration
}

func (o *execOptions) addTo(f *pflag.FlagSet) {
	f.SortFlags = false
	f.SetInterspersed(false) // what follows COMMAND is COMMAND's
	f.BoolVarP(&o.terminal, "terminal", "t", false, "give it a terminal, also where there is none here")
	f.BoolVarP(&o.noTerminal, "no-terminal", "T", false, "give it no terminal")
	f.BoolVarP(&o.detach, "detach", "d", false, "start it, and do not wait for it")
	f.StringArrayVar(&o.env, "env", nil, "set `K=V` in its environment; K alone: as it is here *")
	f.StringVar(&o.workdir, "workdir", "", "start in `DIR` (default: as the sandbox says)")
	f.DurationVar(&o.timeout, "timeout", 0, "end it after `DURATION` (default: never)")
}

func (o *execOptions) start(env Env, name string, argv []string) (*ringfencev1.ExecStart, error) {
	switch {
	case o.terminal && o.noTerminal:
		return nil, errors.New("--terminal and --no-terminal are both given")
	case o.detach && o.terminal:
		return nil, errors.New("--terminal and --detach are both given: nobody would sit at it")
	case o.detach && len(argv) == 0:
		return nil, hint(errors.New("COMMAND is missing"), "a shell that nobody types into ends at once: say what to run")
	case o.timeout < 0:
		return nil, fmt.Errorf("--timeout %s is less than nothing", o.timeout)
	}
	start := &ringfencev1.ExecStart{Sandbox: name, Argv: argv, Workdir: o.workdir, Detach: o.detach}
	var err error
	if start.Environment, err = variables(o.env, env); err != nil {
		return nil, ownFailure(err)
	}
	if o.timeout > 0 {
		start.Timeout = api.Duration(o.timeout)
	}
	here := tty.IsTerminal(env.Stdin) && tty.IsTerminal(env.Stdout)
	if start.Terminal = !o.detach && !o.noTerminal && (o.terminal || here); start.Terminal {
		start.Size = terminalSize(env)
		if term := env.variable("TERM"); term != "" && start.Environment["TERM"] == "" {
			start.Environment["TERM"] = term
		}
	}
	return start, nil
}

// terminalSize is the size of our terminal, and a common one where there is none.
func terminalSize(env Env) *ringfencev1.TerminalSize {
	if out := outerTerminal(env); out != nil {
		if size, err := tty.SizeOf(out); err == nil && size.Cols > 0 {
			return &ringfencev1.TerminalSize{Columns: uint32(size.Cols), Rows: uint32(size.Rows)}
		}
	}
	return &ringfencev1.TerminalSize{Columns: 80, Rows: 24}
}

func newExec(env Env, status *int) *cobra.Command {
	var opts execOptions
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:                   "exec [flags] NAME [--] [COMMAND [ARG...]]",
		Short:                 "Run a command in a sandbox",
		Long:                  execLong,
		Example:               execExample,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return hint(errors.New("NAME is missing"), "ringfence sandbox list shows the names")
			}
			// Those between NAME and COMMAND.
			if err := cmd.Flags().Parse(args[1:]); err != nil {
				return hint(err, cmd.CommandPath()+" --help lists the flags")
			}
			if wanted, _ := cmd.Flags().GetBool("help"); wanted {
				return cmd.Help()
			}
			start, err := opts.start(env, args[0], slices.Clone(cmd.Flags().Args()))
			if err != nil {
				return err
			}
			ctx, interrupted := catchSignals(cmd.Context())
			defer interrupted.stop()
			return ownFailure(r.call(func(c *api.Client) (err error) {
				*status, err = (&execution{env: env, start: start, interrupted: interrupted}).run(ctx, c)
				if ended := (*signalError)(nil); err != nil && errors.As(context.Cause(ctx), &ended) {
					return ended
				}
				return err
			}))
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hint(err, cmd.CommandPath()+" --help lists the flags")
	})
	opts.addTo(cmd.Flags())
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 || strings.HasPrefix(text, "-") {
			return nil, cobra.ShellCompDirectiveDefault // COMMAND, of files
		}
		return completeSandbox(r, 1)(cmd, args, text)
	}
	return cmd
}
