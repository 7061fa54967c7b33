package e2e

import (
	"strings"
	"testing"
)

func TestAllowedAndDenied(t *testing.T) {
	f := newFixture(t)
	curl := realPath(t, "curl")
	r := f.sh(f.allow([]int{443}, curl), "curl -sS https://"+allowedName+"/ && curl -sS https://"+deniedName+"/")
	if r.status == 0 || !strings.Contains(r.stderr, "403") {
		t.Errorf("status %d\n%s\n%s", r.status, r.stdout, r.stderr)
	}
	if len(r.records) != 2 || r.records[0].Verdict != "allow" || r.records[1].Verdict != "deny" {
		t.Fatalf("records = %+v", r.records)
	}
	if got := r.records[0]; got.Binary != curl || got.Host != allowedName || got.Policy != "allowed" {
		t.Errorf("first = %+v", got)
	}
}
