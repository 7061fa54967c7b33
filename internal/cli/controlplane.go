package cli

import (
	"fmt"
	"net/url"
	"strings"

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
	target, err := parseEndpoint(text)
	if err != nil {
		return flow.Target{}, hint(fmt.Errorf("%s: %w", source, err),
			"write HOST:PORT, or a URL such as https://control.example.com")
	}
	return target, nil
}

// parseEndpoint reads HOST:PORT or a URL, whose scheme may give the port. The path
// of a URL says nothing about where it is; a user in it might be a mistake for a
// host, and is refused.
func parseEndpoint(text string) (flow.Target, error) {
	if !strings.Contains(text, "://") {
		return flow.ParseTarget(text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return flow.Target{}, err
	}
	if u.User != nil {
		return flow.Target{}, fmt.Errorf("%q names a user", u.Redacted())
	}
	port := u.Port()
	if port == "" {
		switch u.Scheme {
		case "http", "grpc":
			port = "80"
		case "https", "grpcs":
			port = "443"
		default:
			return flow.Target{}, fmt.Errorf("%q has no port, and the scheme stands for none", text)
		}
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return flow.ParseTarget(host + ":" + port)
}
