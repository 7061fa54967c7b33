package e2e

import (
	"fmt"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// TestManyConnections: none of many is without an identity, or lost.
func TestManyConnections(t *testing.T) {
	crowd, sequence := 2000, 20000
	if testing.Short() {
		crowd, sequence = 500, 2000
	}
	f := newFixtureWith(t, testenv.Config{NoWitness: true})
	probe := f.tool(toolGo)
	policy := f.allow([]int{testenv.PortEcho}, probe)
	tests := []struct {
		name string
		n    int
	}{
		{"crowd", crowd},       // all open at one time
		{"sequence", sequence}, // one after the other
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := f.sh(policy, fmt.Sprintf("%s -n %d %s %s:%d", probe, tt.n, tt.name, allowedName, testenv.PortEcho))
			if s := sawIn(t, r.stdout); s.Error != "" || s.Conns != tt.n {
				t.Errorf("after %d connections: %.500s", s.Conns, s.Error)
			}
			kinds := map[string]int{}
			for _, rec := range r.records {
				kinds[fmt.Sprint(rec.Verdict, " ", rec.Reason, " ", rec.Mode, " ", rec.Binary, " ", rec.Sent, " ", rec.Received)]++
			}
			if want := "allow allowed transparent " + probe + " 8 8"; len(kinds) != 1 || kinds[want] != tt.n {
				t.Errorf("records: %v, want %d times %q", kinds, tt.n, want)
			}
		})
	}
}
