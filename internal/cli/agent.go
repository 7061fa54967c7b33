package cli

import (
	"github.com/spf13/cobra"
)

// newAgent is the agent itself, and what is asked of one that runs.
func newAgent(env Env, status *int) *cobra.Command {
	return noun("agent", "Ask the agent that owns this machine's sandboxes", `Ask the agent that owns this machine's sandboxes.`,
		newAgentStatus(env, status))
}
