package e2e

import (
	"net/netip"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// TestControlPlane reaches the control plane from a program that is in no policy,
// at a private address.
func TestControlPlane(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	curl := realPath(t, "curl")
	f.env.Zone("control.test", netip.MustParseAddr("10.30.0.5"))
	f.env.Zone("rebound.test", netip.MustParseAddr(testenv.Metadata))
	policy := f.policy(allowBlock("other", otherName, []int{443}, "/usr/bin/another"))
	get := "-sS --max-time 20"
	allowed := record{Verdict: "allow", Engine: "control_plane", Reason: "control_plane", Binary: curl, Address: "10.30.0.5"}
	tests := []struct {
		name, flag, environ, url, host string
		want                           record
	}{
		{"URL", "https://control.test", "", "https://control.test/", "control.test", allowed},
		{"host and port", "control.test:80", "", "http://control.test/", "control.test", allowed},
		{"environment", "", "RINGFENCE_ENDPOINT=https://control.test", "https://control.test/", "control.test", allowed},
		{"literal address", "10.30.0.5:80", "", "http://10.30.0.5/", "10.30.0.5", allowed},
		{"another port", "https://control.test", "", "http://control.test/", "control.test",
			record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint"}},
		{"never metadata", "http://rebound.test", "", "http://rebound.test/", "rebound.test",
			record{Verdict: "deny", Engine: "ssrf", Reason: "unsafe_address"}},
		{"off unless set", "", "", "https://control.test/", "control.test",
			record{Verdict: "deny", Engine: "dns", Reason: "undeclared_name"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(f.env.Requests())
			args := []string{"--policy", policy}
			if tt.flag != "" {
				args = append(args, "--control-plane", tt.flag)
			}
			running := f.prepare(append(args, "--", "/bin/sh", "-c", withoutProxy+curl+" "+get+" "+tt.url)...)
			if tt.environ != "" {
				running.cmd.Env = append(running.cmd.Env, tt.environ)
			}
			if err := running.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r := running.wait()
			if len(r.about(tt.host)) == 0 {
				t.Fatalf("no record about %s: %+v", tt.host, r.records)
			}
			for _, rec := range r.about(tt.host) { // a denied curl may try each address
				rec.check(t, tt.want)
			}
			arrived := len(f.env.Requests()) - before
			if ok := tt.want.Verdict == "allow"; (arrived == 1) != ok || (r.status == 0) != ok {
				t.Errorf("%d requests arrived, status %d: %s", arrived, r.status, r.stderr)
			}
		})
	}
	f.env.NothingArrived(t, testenv.To(netip.MustParseAddr(testenv.Metadata)))
}
