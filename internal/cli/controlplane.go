package cli

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// controlPlane is the one target that is allowed without the policy: the flag's,
// or that of the environment. Zero where neither names one.
func controlPlane(flag string, environ []string) (flow.Target, error) {
	text, source := flag, "--control-plane"
	for _, name := range []string{"RINGFENCE_ENDPOINT", "NAVIGATOR_ENDPOINT"} {
		if text == "" {
			text, source = lookupEnv(environ, name), name
		}
	}
	if text == "" {
		return flow.Target{}, nil
	}
	target, err := parseEndpoint(text)
	if err != nil {
		return flow.Target{}, &hintedError{
			fmt.Errorf("%s %q: %w", source, text, err),
			"write HOST:PORT, or a URL such as https://control.example.com",
		}
	}
	return target, nil
}

// parseEndpoint reads HOST:PORT or a URL, whose scheme may give the port. A URL
// with anything that a host and port do not need is refused.
func parseEndpoint(text string) (flow.Target, error) {
	if !strings.Contains(text, "://") {
		return flow.ParseTarget(text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return flow.Target{}, err
	}
	if u.User != nil {
		return flow.Target{}, fmt.Errorf("a user has no place here")
	}
	ports := map[string]string{"http": "80", "https": "443", "grpc": "80", "grpcs": "443"}
	port, known := ports[strings.ToLower(u.Scheme)]
	if !known {
		return flow.Target{}, fmt.Errorf("unknown scheme %q", u.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return flow.ParseTarget(host + ":" + port)
}
