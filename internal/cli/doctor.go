package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/floor"
	"github.com/ringfence/ringfence/internal/launch"
)

const doctorLong = `Tells what this machine has of what Ringfence needs, and what is lost where it
lacks something. As root it then starts an agent for a moment, with its hooks, runs
a command that does nothing in a sandbox that may reach nothing, and removes both.
What agents left that were killed is removed too, as by any start.

Without root it says what it could not look at.

Exit status: 0 when everything is there that is required; 1 when not; 2 when it was
not asked rightly; 128+n when signal n ended it.`

// Exit statuses of doctor, beside those of a question that could not be put.
const (
	doctorFit   = 0
	doctorUnfit = 1
)

func newDoctor(env Env, status *int) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Tell whether this machine can run sandboxes",
		Long:  doctorLong,
		Example: `  sudo ringfence doctor
  sudo ringfence doctor -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := out.check(); err != nil {
				return err
			}
			*status, err = examine(cmd.Context(), env, out.value)
			return err
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return unread(hint(err, cmd.CommandPath()+" --help lists the flags"))
	})
	out.addTo(cmd.Flags(), "text", "json")
	return cmd
}

func examine(ctx context.Context, env Env, format string) (int, error) {
	ctx, interrupted := catchInterrupts(ctx)
	defer interrupted.stop()
	report := examination{Requirements: requirementsJSON(agent.Requirements())}
	tried := trialJSON(ctx, env, report.unmet())
	if ended := (*signalError)(nil); errors.As(context.Cause(ctx), &ended) {
		return 0, ended
	}
	report.Requirements = append(report.Requirements, tried...)
	report.OK = len(report.unmet()) == 0
	if err := report.write(env, format); err != nil {
		return 0, err
	}
	if !report.OK {
		return doctorUnfit, nil
	}
	return doctorFit, nil
}

// examination is what was found, as JSON has it.
type examination struct {
	OK           bool              `json:"ok"`
	Requirements []requirementJSON `json:"requirements"`
}

type requirementJSON struct {
	Group    string      `json:"group"`
	Name     string      `json:"name"`
	Required bool        `json:"required"`
	State    floor.State `json:"state"`
	Found    string      `json:"found"`
	Costs    string      `json:"costs"`
	Hint     string      `json:"hint,omitempty"` // where it is missing
	// DurationMS is how long a trial took.
	DurationMS float64 `json:"duration_ms,omitempty"`
}

func requirementsJSON(all []floor.Requirement) []requirementJSON {
	list := []requirementJSON{}
	for _, r := range all {
		one := requirementJSON{
			Group: r.Group, Name: r.Name, Required: r.Required(), State: r.State,
			Found: printable(r.Found), Costs: r.Costs,
		}
		if one.Required {
			one.Costs = "nothing starts"
		}
		if r.State == floor.Missing {
			one.Hint = printable(r.Hint)
		}
		list = append(list, one)
	}
	return list
}

// trialJSON tries the whole, unless something required is known to be missing.
func trialJSON(ctx context.Context, env Env, unmet []string) []requirementJSON {
	attach := floor.Requirement{Group: "trial", Name: "hooks that load and attach"}
	command := floor.Requirement{Group: "trial", Name: "a sandbox that runs a command"}
	var took agent.Trial
	if len(unmet) > 0 {
		attach.Found = "not tried, for want of what is required"
		command.Found = attach.Found
	} else {
		var err error
		took, err = agent.Try(ctx, newLog(env.Stderr, false))
		judgeTrial(&attach, &command, took, err)
	}
	both := requirementsJSON([]floor.Requirement{attach, command})
	both[0].DurationMS, both[1].DurationMS = milliseconds(took.Attach), milliseconds(took.Run)
	return both
}

func judgeTrial(attach, command *floor.Requirement, took agent.Trial, err error) {
	attach.State, attach.Found = floor.Met, "in "+took.Attach.Round(time.Millisecond).String()
	failed := command
	switch {
	case err == nil:
		command.State, command.Found = floor.Met, "in "+took.Run.Round(time.Millisecond).String()
		return
	case took.Attach == 0: // the agent has not started
		failed, command.Found = attach, "not tried"
	}
	failed.State, failed.Found = floor.Missing, strings.ReplaceAll(err.Error(), "\n", "; ")
	if step := (*launch.StepError)(nil); errors.As(err, &step) {
		failed.Hint = step.Hint
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// unmet returns the names of what is required and not known to be there.
func (e *examination) unmet() []string {
	var names []string
	for _, r := range e.Requirements {
		if r.Required && r.State != floor.Met {
			names = append(names, r.Name)
		}
	}
	return names
}

// write tells what was found; a text for a person ends in a word on all of it.
func (e *examination) write(env Env, format string) error {
	if format == "json" {
		return writeJSON(env.Stdout, e)
	}
	if err := e.table(env.Stdout); err != nil {
		return err
	}
	word := "ok: this machine has all that is required"
	if unmet := e.unmet(); len(unmet) > 0 {
		word = "not ok: lacking or not looked at: " + strings.Join(unmet, ", ")
	}
	_, err := fmt.Fprintln(env.Stderr, word)
	return err
}

// table writes a line for each requirement, and then what to do about those that
// are missing.
func (e *examination) table(out io.Writer) error {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT IS NEEDED\t\tFOUND\tWITHOUT IT")
	group := ""
	for _, r := range e.Requirements {
		if r.Group != group {
			group = r.Group
			fmt.Fprintf(table, "%s\t\t\t\n", group)
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", r.Name, r.State, r.Found, r.Costs)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range e.Requirements {
		if r.Hint != "" {
			fmt.Fprintf(&text, "hint: %s: %s\n", r.Name, r.Hint)
		}
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}
