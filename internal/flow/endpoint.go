package flow

import (
	"fmt"
	"net/url"
	"strings"
)

// ParseEndpoint reads HOST:PORT or a URL, whose scheme may give the port. The path
// of a URL says nothing about where it is; a user in it might be a mistake for a
// host, and is refused.
func ParseEndpoint(text string) (Target, error) {
	if !strings.Contains(text, "://") {
		return ParseTarget(text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return Target{}, err
	}
	if u.User != nil {
		return Target{}, fmt.Errorf("%q names a user", u.Redacted())
	}
	port := u.Port()
	if port == "" {
		switch u.Scheme {
		case "http", "grpc":
			port = "80"
		case "https", "grpcs":
			port = "443"
		default:
			return Target{}, fmt.Errorf("%q has no port, and the scheme stands for none", text)
		}
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return ParseTarget(host + ":" + port)
}
