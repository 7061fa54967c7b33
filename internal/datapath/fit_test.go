package datapath

import "testing"

func TestLoadFitsItsMaps(t *testing.T) {
	for _, tt := range []struct{ sandboxes, tasks, dnsSlots, states uint32 }{
		{1, 16384, 250, 2},
		{3, 3 * 16384, 750, 4},
		{1024, 1 << 20, 1024 * 250, 1025}, // a host runs out of processes before
	} {
		spec, err := loadAgent()
		if err != nil {
			t.Fatal(err)
		}
		fit(spec, tt.sandboxes)
		got := tt
		got.tasks = spec.Maps[agentMapTasks].MaxEntries
		got.dnsSlots = spec.Maps[agentMapDnsSlots].MaxEntries
		got.states = spec.Maps[agentMapSandboxStates].MaxEntries
		if got != tt {
			t.Errorf("got %+v, want %+v", got, tt)
		}
	}
}

func TestLoadRefusesTooManySandboxes(t *testing.T) {
	for _, n := range []int{-1, 1025} {
		if _, err := Load(Config{MaxSandboxes: n}); err == nil {
			t.Errorf("%d sandboxes are accepted", n)
		}
	}
}
