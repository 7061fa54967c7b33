package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/policies"
)

const completionLong = `Prints a script that lets the shell complete commands, flags, and the names of
sandboxes, providers and shipped policies. Names are asked of the running agent, where
there is one that this user may ask.`

const completionExample = `  source <(ringfence completion bash)
  ringfence completion bash > /etc/bash_completion.d/ringfence
  ringfence completion zsh > "${fpath[1]}/_ringfence"
  ringfence completion fish > ~/.config/fish/completions/ringfence.fish`

func newCompletion(env Env) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	cmd := &cobra.Command{
		Use:                   "completion bash|zsh|fish",
		Short:                 "Print the completion script of a shell",
		Long:                  completionLong,
		Example:               completionExample,
		DisableFlagsInUseLine: true,
		ValidArgs:             shells,
		Args:                  theseArgs("the shell"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(env.Stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(env.Stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(env.Stdout, true)
			}
			return unread(hint(fmt.Errorf("there is no completion for %q", args[0]), "it may be bash, zsh, fish"))
		},
	}
	cmd.SetFlagErrorFunc(unreadFlags)
	return cmd
}

const (
	// completionTimeout bounds what a person who pressed the tab key waits.
	completionTimeout = time.Second
	// anyNumber of arguments is completed.
	anyNumber = -1
)

// completer is cobra's type of what completes arguments and flags.
type completer = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective)

// names completes with what ask returns, up to a number of arguments. Nothing is said
// where the agent cannot be asked: it is no time for errors.
func (r *remote) names(most int, ask func(context.Context, *api.Client) ([]string, error)) completer {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most != anyNumber && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
		defer cancel()
		var found []string
		err := r.call(func(c *api.Client) (err error) {
			found, err = ask(ctx, c)
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSandbox completes names of sandboxes as the first arguments.
func completeSandbox(r *remote, most int) completer {
	return r.names(most, func(ctx context.Context, c *api.Client) (names []string, err error) {
		all, err := allSandboxes(ctx, c, nil)
		for _, s := range all {
			names = append(names, s.GetName())
		}
		return names, err
	})
}

func completeProvider(r *remote) completer { return r.names(1, providerNames) }

func providerNames(ctx context.Context, c *api.Client) (names []string, err error) {
	all, err := allProviders(ctx, c)
	for _, p := range all {
		names = append(names, p.GetName())
	}
	return names, err
}

// completePolicies completes --policy with the shipped policies, and files.
func completePolicies(cmd *cobra.Command) { completeFlag(cmd, "policy", completePolicy) }

func completePolicy(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var names []cobra.Completion
	for _, p := range policies.All() {
		names = append(names, cobra.CompletionWithDesc(p.Name, p.Summary))
	}
	return names, cobra.ShellCompDirectiveDefault // files as well
}

// completeSandboxThenPolicies completes the arguments of "policy set".
func completeSandboxThenPolicies(r *remote) completer {
	sandboxes := completeSandbox(r, 1)
	return func(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return sandboxes(cmd, args, text)
		}
		return completePolicy(cmd, args, text)
	}
}

func completeProviders(cmd *cobra.Command, r *remote, flag string) {
	completeFlag(cmd, flag, r.names(anyNumber, providerNames))
}

func completeFlag(cmd *cobra.Command, flag string, with completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, with); err != nil {
		panic(errors.Join(errors.New("a flag that there is not"), err)) // a mistake of ours: the tests build every command
	}
}
