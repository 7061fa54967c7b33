// Package cli is the commands of the ringfence program: what a person types, and
// what they read when something is refused.
//
// Commands reach the outside through Env only. What they do is done by the
// agent; this package parses, explains and reports.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
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

// Main runs one command and returns its exit status.
func Main(env Env, args []string) int {
	status := 0
	root := newRoot(env, &status)
	root.SetArgs(args)
	if err := root.ExecuteContext(context.Background()); err != nil {
		return report(env, err)
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
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
		Version:           version(),
	}
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &hintedError{err, fmt.Sprintf("%s --help lists the flags", cmd.CommandPath())}
	})
	root.AddCommand(newRun(env, status))
	return root
}

// hintedError is an error with what to do about it.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }

// report tells a person what failed, and returns the exit status for it.
func report(env Env, err error) int {
	var load policy.LoadError
	if errors.As(err, &load) {
		for _, problem := range load {
			fmt.Fprintf(env.Stderr, "ringfence: %s\n", problem)
		}
		fmt.Fprintln(env.Stderr, "hint: nothing was started; mend the policy and try again")
		return launch.ExitRingfence
	}
	var ended *signalError
	if errors.As(err, &ended) {
		return 128 + int(ended.signal)
	}
	fmt.Fprintf(env.Stderr, "ringfence: %s\n", err)
	status := launch.ExitRingfence
	hint := ""
	var hinted *hintedError
	var step *launch.StepError
	switch {
	case errors.As(err, &step):
		hint, status = step.Hint, step.Code
	case errors.As(err, &hinted):
		hint = hinted.hint
	}
	if hint != "" {
		fmt.Fprintf(env.Stderr, "hint: %s\n", hint)
	}
	return status
}
