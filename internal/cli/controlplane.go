package cli

import (
	"fmt"

	"github.com/ringfence/ringfence/internal/flow"
)

// controlPlane is the one target that is allowed without the policy: the flag's,
// or that of the environment. Zero where neither names one.
func controlPlane(flag string, env Env) (flow.Target, error) {
	text, source := flag, "--control-plane"
	for _, name := range []string{"RINGFENCE_ENDPOINT", "NAVIGATOR_ENDPOINT"} {
		if text == "" {
			text, source = env.variable(name), name
		}
	}
	if text == "" {
		return flow.Target{}, nil
	}
	target, err := flow.ParseEndpoint(text)
	if err != nil {
		return flow.Target{}, hint(fmt.Errorf("%s: %w", source, err),
			"write HOST:PORT, or a URL such as https://control.example.com")
	}
	return target, nil
}
