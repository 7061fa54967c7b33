package datapath

import (
	"testing"

	"github.com/cilium/ebpf"
)

// maxVerified is far below the verifier's limit of a million: what it bounds is
// the time that a start takes.
const maxVerified = 20_000

// Run with -v: how many instructions this kernel's verifier looked at.
func TestVerifiedInstructions(t *testing.T) {
	dp, _ := loadDatapath(t)
	programs := map[string]*ebpf.Program{
		agentProgTakeOrigin:   dp.objects.TakeOrigin,
		agentProgDropExec:     dp.objects.DropExec,
		agentProgIdentifyFile: dp.objects.IdentifyFile,
	}
	for _, h := range dp.hooks() {
		programs[h.name] = h.program
	}
	for name, program := range programs {
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("the kernel does not tell")
		}
		t.Logf("%6d %s", n, name)
		if n > maxVerified {
			t.Errorf("%s: %d instructions verified, want at most %d", name, n, maxVerified)
		}
	}
}
