package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

const sandboxLong = `Makes sandboxes that a running agent owns, runs commands in them, and shows them.
A sandbox lives until it is deleted: also while the agent is stopped or replaced.

"ringfence run" is for one command in a sandbox of its own, and "ringfence ssh" for
SSH into one of these.`

func newSandbox(env Env, status *int) *cobra.Command {
	cmd := noun("sandbox", "Make, show and use the sandboxes of the agent", sandboxLong,
		newSandboxCreate(env), newSandboxList(env), newSandboxShow(env), newSandboxUpdate(env), newSandboxDelete(env),
		newSandboxWatch(env), newExec(env, status), newCopy(env), newAccept(env))
	cmd.Aliases = []string{"sandboxes"}
	return cmd
}

// phase is the phase of a sandbox as a person reads it.
func phase(s *ringfencev1.Sandbox) string {
	p := s.GetStatus().GetPhase()
	if p == ringfencev1.SandboxStatus_PHASE_UNSPECIFIED {
		return "unknown"
	}
	return strings.ToLower(p.String())
}
