package cli

import (
	"github.com/spf13/cobra"
)

// newAgent is the agent itself, and what is asked of one that runs.
func newAgent(env Env, status *int) *cobra.Command {
	cmd := noun("agent", "Run the agent that owns this machine's sandboxes, or ask it how it is", serveLong,
		newAgentStatus(env, status))
	addServe(cmd, env)
	return cmd
}
