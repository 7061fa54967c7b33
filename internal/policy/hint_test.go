package policy

import (
	"strings"
	"testing"
)

// A hint must not advise what would not help.
func TestHintForAnAddressThatIsNeverDialled(t *testing.T) {
	e := engine(t, Config{}, decidePolicy)
	for address, want := range map[string]string{
		"169.254.169.254:80":   "never dialled",
		"[fe80::1]:80":         "never dialled",
		"203.0.113.7:80":       "add an endpoint",
		"undeclared.test:8080": "add an endpoint",
	} {
		if d := e.Decide(program("/usr/bin/curl"), target(t, address)); !strings.Contains(d.Hint, want) {
			t.Errorf("%s: %q, want %q", address, d.Hint, want)
		}
	}
}
