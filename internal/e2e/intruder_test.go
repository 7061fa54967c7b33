package e2e

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// A program that no policy names tries to speak as one that is allowed, and to
// keep a run from ending. Each way worked once.
func TestIntruder(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	client := f.tool(toolC)
	built := filepath.Join(filepath.Dir(program), "intruder")
	build := exec.Command("gcc", "-Wall", "-Werror", "-O1", "-o", built, "testdata/intruder.c")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build intruder: %v\n%s", err, out)
	}
	intruder := f.copyOf(built, "intruder")
	policy := f.allow([]int{testenv.PortHTTP}, client)
	for _, tt := range []struct {
		name, out string
		args      []string
		denied    *record
	}{
		{"writes into its memory", "open memory: Read-only file system", []string{"memory", client, "-w", allowedName, "80"}, nil},
		{
			"has it connect a socket of its own", "use the connection: Connection reset by peer",
			[]string{"filter", client, "-4", "-c", allowedName, "80"},
			&record{Verdict: "deny", Engine: "opa", Reason: "tainted", Mode: "transparent", Binary: client, Host: allowedName, Port: 80},
		},
		{"leaves a child to the agent", "make a sibling: Operation not permitted", []string{"sibling"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := f.start(append([]string{"--policy", policy, "--", intruder}, tt.args...)...)
			stuck := time.AfterFunc(20*time.Second, func() { _ = r.cmd.Process.Kill() })
			defer stuck.Stop()
			got := r.wait()
			if got.status != 0 || !strings.Contains(got.stdout, tt.out) {
				t.Errorf("status %d, want %q\n%s%s", got.status, tt.out, got.stdout, got.stderr)
			}
			if tt.denied != nil {
				rec := got.one(t, allowedName)
				rec.check(t, *tt.denied)
				if len(rec.Taints) != 1 || rec.Taints[0] != "filtered" {
					t.Errorf("taints = %v", rec.Taints)
				}
			}
		})
	}
	f.env.NothingArrived(t, testenv.To(netip.MustParseAddr(allowedIPv4)))
	if r := f.run("--policy", policy, "--", client, "-4", "-c", allowedName, "80"); r.one(t, allowedName).Verdict != "allow" {
		t.Errorf("the program itself: %+v", r.records)
	}
}
