package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

const agentStatusLong = `Tells how the agent is: its version, since when it runs, how its hooks were started
(fresh, adopted from the agent before, or migrated to another layout), its sandboxes,
where SSH listens, and what is not as it should be.

Exit status: 0 when it serves and has no problems; 1 when not; 2 when it was not asked
rightly; 3 when there is no agent.`

// serving is the state of an agent that does what it is asked.
const serving = "serving"

func statusRequest() *ringfencev1.GetStatusRequest { return &ringfencev1.GetStatusRequest{} }

func newAgentStatus(env Env, status *int) *cobra.Command {
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how the agent is",
		Long:  agentStatusLong,
		Example: `  ringfence agent status
  ringfence agent status -o json | jq .sandboxes`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return r.call(func(c *api.Client) error {
				told, err := c.Agent.GetStatus(cmd.Context(), statusRequest())
				if err != nil {
					return err
				}
				if told.GetState() != serving || len(told.GetProblems()) > 0 {
					*status = serviceFailed
				}
				return out.show(env.Stdout, told, func(t *table, _ bool) { agentFields(t, told) })
			})
		},
	}
	cmd.SetFlagErrorFunc(unreadFlags)
	out.addTo(cmd.Flags(), "text", "json", "yaml")
	r.addTo(cmd.Flags())
	return cmd
}

func agentFields(t *table, a *ringfencev1.AgentStatus) {
	t.field("state", a.GetState())
	t.field("version", a.GetVersion())
	t.field("pid", decimal(uint64(a.GetPid())))
	since := clock(a.GetStartTime())
	if since != "" {
		since += " (" + age(a.GetStartTime(), time.Now()) + ")"
	}
	t.field("since", since)
	t.field("hooks", a.GetHooks())
	sandboxes := decimal(uint64(a.GetSandboxes()))
	if adopted := a.GetAdopted(); adopted > 0 {
		sandboxes += fmt.Sprintf(", of which %d were adopted", adopted)
	}
	t.field("sandboxes", sandboxes)
	var ssh []string
	for _, where := range []string{a.GetSshAddress(), a.GetSshSocket()} {
		if where != "" {
			ssh = append(ssh, where)
		}
	}
	if len(ssh) == 0 {
		ssh = []string{"off"}
	}
	t.field("SSH", strings.Join(ssh, ", "))
	t.field("SSH connections", decimal(uint64(a.GetSshConnections())))
	t.field("memory", fmt.Sprintf("%.1f MiB", float64(a.GetResidentBytes())/(1<<20)))
	t.field("records", decimal(a.GetRecords()))
	if lost := a.GetRecordsLost(); lost > 0 {
		t.field("records lost", decimal(lost))
	}
	for _, problem := range a.GetProblems() {
		t.field("problem", problem)
	}
}
