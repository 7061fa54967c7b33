package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// Twenty runs leave nothing of themselves on the machine: no part of an instance,
// and no process that lost its parent.
func TestTwentyRuns(t *testing.T) {
	testenv.CheckLeaks(t, "no path of the machine: other agents may run on it")
	f := newFixture(t)
	curl := realPath(t, "curl")
	policy := f.allow([]int{443}, curl)
	for i := range 20 {
		if r := f.sh(policy, fmt.Sprintf("curl -sS -o /dev/null https://%s/ && sleep 1000 & exit %d", allowedName, i)); r.status != i {
			t.Fatalf("run %d: status %d\n%s", i, r.status, r.stderr)
		}
	}
	noneAbandoned(t)
}

// Descriptors run out at every stage of a start in turn. Each time it says so, or it
// works; and nothing is left.
func TestStartOutOfDescriptors(t *testing.T) {
	f := newFixture(t)
	testenv.Require(t, "prlimit")
	prlimit, err := exec.LookPath("prlimit")
	if err != nil {
		t.Fatal(err)
	}
	policy := f.allow([]int{443}, "/bin/none")
	failed, worked := 0, 0
	for limit := 8; limit <= 120; limit += 7 {
		r := f.prepare("--policy", policy, "--", "sh", "-c", "exit 9")
		r.cmd.Args = append([]string{"prlimit", fmt.Sprintf("--nofile=%d:%d", limit, limit), "--"}, r.cmd.Args...)
		r.cmd.Path = prlimit
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		got := r.wait()
		switch {
		case got.status == 9:
			worked++
		case got.status == 125 && !strings.Contains(got.stderr, "goroutine"):
			failed++
		default:
			t.Errorf("with %d descriptors: status %d\n%s", limit, got.status, got.stderr)
		}
	}
	if failed < 5 || worked < 1 {
		t.Errorf("%d starts failed, %d worked: the limits are not those that matter", failed, worked)
	}
	// What could not be removed for want of a descriptor is for the next start.
	if got := f.run("--policy", policy, "--", "true"); got.status != 0 {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
	noneAbandoned(t)
}

// A policy that does not load starts nothing: this one is refused where nothing
// could be started.
func TestBadPolicyStartsNothing(t *testing.T) {
	f := newFixture(t)
	policy := f.policy("  x:\n    endpoints: []\n    binaries: [{path: /bin/x}]\n    nonsense: 1\n")
	const before = "mount -t tmpfs -o ro tmpfs /run; mount -t tmpfs -o ro tmpfs /sys/fs/bpf; umount -a -t cgroup2"
	got := f.inMounts(before, "--policy", policy, "--", "true").wait()
	want := []string{
		"ringfence: " + policy + ":4:16: network_policies.x.endpoints: ",
		"ringfence: " + policy + ":6:5: network_policies.x.nonsense: ",
		"hint: nothing was started",
	}
	lines := strings.Split(strings.TrimSpace(got.stderr), "\n")
	if got.status != 125 || len(lines) != len(want) {
		t.Fatalf("status %d\n%s", got.status, got.stderr)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("line %q, want %q", lines[i], want[i])
		}
	}
}
