package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/api"
)

// Exit statuses of the commands that ask a running agent. Those that run something
// for a person (exec, ssh) end as that did, or with 125.
const (
	serviceFailed  = 1 // the agent refused, or could not
	serviceMisused = policyUnread
	serviceAbsent  = 3 // there is no agent
)

// serviceExits is the end of the help of these commands.
const serviceExits = `

Exit status: 0; 1 when the agent refused or something failed; 2 when it was not
asked rightly; 3 when there is no agent.`

// remote is where a command finds the agent.
type remote struct {
	env    Env
	socket string // of --socket
}

func (r *remote) addTo(f *pflag.FlagSet) {
	f.StringVar(&r.socket, "socket", "", "ask the agent at `PATH` (default: $RINGFENCE_SOCKET, else "+api.DefaultSocket+")")
}

func (r *remote) path() string {
	for _, path := range []string{r.socket, r.env.variable("RINGFENCE_SOCKET")} {
		if path != "" {
			return path
		}
	}
	return api.DefaultSocket
}

// call runs fn with a client.
func (r *remote) call(fn func(*api.Client) error) (err error) {
	client, err := api.Dial(r.path())
	if err != nil {
		return refused(err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return refused(fn(client))
}

// refused makes what a call returned an error that a person can act on. Errors of ours
// stay as they are.
func refused(err error) error {
	var own *statusError
	var ended *signalError
	switch {
	case err == nil, errors.As(err, &own), errors.As(err, &ended):
		return err
	case !api.OfCall(err):
		return &statusError{err, serviceFailed}
	}
	e := api.ErrorOf(err)
	status := serviceFailed
	if e.Code == api.CodeUnavailable {
		status = serviceAbsent
	}
	return &statusError{hint(errors.New(e.Message), e.Hint), status}
}

// conflicts reports whether an update was refused as another came before it.
func conflicts(err error) bool { return api.CodeOf(err) == api.CodeAborted }

// ownFailure is what went wrong with a command that has an exit status of its own:
// it ends with 125.
func ownFailure(err error) error {
	if own := (*statusError)(nil); errors.As(err, &own) {
		return own.error
	}
	return err
}

// noun makes a command that only has others below it.
func noun(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:                        use,
		Short:                      short,
		Long:                       long,
		SuggestionsMinimumDistance: 2,
		Args:                       func(cmd *cobra.Command, args []string) error { return unread(noSuchCommand(cmd, args)) },
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(unreadFlags)
	cmd.AddCommand(commands...)
	return cmd
}

func unreadFlags(cmd *cobra.Command, err error) error {
	return unread(hint(err, cmd.CommandPath()+" --help lists the flags"))
}

// theseArgs takes one argument for each name. The last may be "NAME...", which takes
// one or more, and "[NAME]", which takes none or one.
func theseArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		usage := cmd.CommandPath() + " --help shows the usage"
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return unread(hint(fmt.Errorf("%s is missing", strings.TrimSuffix(name, "...")), usage))
			}
			if strings.Contains(name, "...") {
				return nil
			}
		}
		if len(args) > len(names) {
			return unread(hint(fmt.Errorf("unexpected argument %q", args[len(names)]), usage))
		}
		return nil
	}
}
