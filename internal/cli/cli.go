// Package cli is the commands of the ringfence program: what a person types, and
// what they read when something is refused.
//
// Commands reach the outside through Env only. What they do is done by the
// agent; this package parses, explains and reports.
package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Env is the world as a command sees it.
type Env struct {
	Stdin, Stdout, Stderr *os.File
	Environ               []string
	Dir                   string // working directory; empty where there is none
	UID                   int
}

// OS returns the environment of this process.
func OS() Env {
	dir, err := os.Getwd()
	if err != nil {
		dir = "" // removed under us: only a command that needs it complains
	}
	return Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Environ: os.Environ(), Dir: dir, UID: os.Geteuid(),
	}
}

// variable returns the last value of an environment variable, or "".
func (e Env) variable(name string) string {
	value := ""
	for _, kv := range e.Environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// Main runs one command and returns its exit status.
func Main(env Env, args []string) int {
	status := 0
	root := newRoot(env, &status)
	root.SetArgs(args)
	if err := root.ExecuteContext(context.Background()); err != nil {
		return report(env.Stderr, err)
	}
	return status
}

func newRoot(env Env, status *int) *cobra.Command {
	root := &cobra.Command{
		Use:   "ringfence",
		Short: "Run programs that reach exactly what a policy says",
		Long: `Ringfence runs a program in a sandbox whose every connection is redirected by
eBPF, attributed to the program by the kernel, decided by OPA on a policy, and
relayed or refused. Nothing else leaves.`,
		Args:                       noSuchCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
		SilenceErrors:              true,
		DisableAutoGenTag:          true,
		Version:                    version(),
	}
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.CompletionOptions.DisableDefaultCmd = true // ours speaks like the others
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hint(err, cmd.CommandPath()+" --help lists the flags")
	})
	root.AddCommand(newRun(env, status), newSandbox(env, status), newSSH(env, status), newEvents(env), newPolicy(env, status),
		newProvider(env), newAgent(env, status), newDoctor(env, status), newSSHConfig(env), newCompletion(env),
		newSSHCredential(env), newSSHProxy(env))
	return root
}

func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	next := cmd.CommandPath() + " --help lists the commands"
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		next = fmt.Sprintf("did you mean %s %s?", cmd.CommandPath(), similar[0])
	}
	return hint(fmt.Errorf("there is no command %q", args[0]), next)
}
