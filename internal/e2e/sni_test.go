package e2e

import (
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// TestServerName has TLS clients name another server than the one they connect
// to. The connection to an allowed host is no way to reach what stands behind it.
func TestServerName(t *testing.T) {
	testenv.Require(t, "curl", "openssl")
	f := newFixture(t)
	curl, openssl := realPath(t, "curl"), realPath(t, "openssl")
	const wrong = "other.open.test" // allowed as well, but not what was connected to
	sClient := "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | " + openssl + " s_client -quiet -connect $H:443 "
	tests := []struct {
		host, command, verdict, reason, mode string
	}{
		{"openssl.open.test", sClient + "-servername $H", "allow", "allowed", "transparent"},
		{"no-name.open.test", sClient + "-noservername", "allow", "allowed", "transparent"},
		{"wrong-name.open.test", sClient + "-servername " + wrong, "deny", "sni_mismatch", "transparent"},
		{"undeclared-name.open.test", sClient + "-servername example.com", "deny", "sni_mismatch", "transparent"},
		{"upper-case.open.test", sClient + "-servername UPPER-case.open.TEST", "allow", "allowed", "transparent"},
		{"curl.open.test", withoutProxy + curl + " -k -sS --connect-to " + wrong + ":443:$H:443 https://" + wrong + "/", "deny", "sni_mismatch", "transparent"},
		{"curl-proxy.open.test", curl + " -k -sS --connect-to " + wrong + ":443:$H:443 https://" + wrong + "/", "deny", "sni_mismatch", "connect"},
		// Who claims to know the address better than the sandbox's DNS is judged by
		// the address.
		{deniedIPv4, withoutProxy + curl + " -k -sS --resolve " + wrong + ":443:$H https://" + wrong + "/", "deny", "no_endpoint", "transparent"},
	}
	var steps []step
	f.env.Zone(wrong, openAddrs...)
	for _, tt := range tests {
		if tt.host != deniedIPv4 {
			f.env.Zone(tt.host, openAddrs...)
		}
		steps = append(steps, step{tt.host, "H=" + tt.host + "; " + tt.command})
	}
	r, results := f.steps(f.policy(allowBlock("open", "*.open.test", []int{443}, curl, openssl)), steps)
	allowed := 0
	for _, tt := range tests {
		t.Run(tt.host, func(t *testing.T) {
			got := r.one(t, tt.host)
			got.check(t, record{Verdict: tt.verdict, Reason: tt.reason, Mode: tt.mode, Port: 443})
			if tt.reason == "sni_mismatch" {
				got.check(t, record{Engine: "sni"})
				if got.Sent != 0 {
					t.Errorf("%d bytes of the client were sent on", got.Sent)
				}
			}
			if answered := strings.Contains(results[tt.host].output, "hello from"); answered != (tt.verdict == "allow") {
				t.Errorf("output %q", results[tt.host].output)
			}
		})
		if tt.verdict == "allow" {
			allowed++
		}
	}
	if requests := f.env.Requests(); len(requests) != allowed {
		t.Errorf("%d requests arrived, want %d: %+v", len(requests), allowed, requests)
	}
}
