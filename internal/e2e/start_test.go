package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// A start that fails at any stage says why, and leaves nothing.
func TestFailedStart(t *testing.T) {
	f := newFixture(t)
	policy := f.allow([]int{443}, "/bin/none")
	// The mounts are made in a mount namespace of the run's own.
	const full = "mount -t tmpfs -o size=16k,nr_inodes=%d tmpfs %s"
	tests := []struct {
		name, before string
		says         string
		hint         string
	}{
		{"no room for the state", fmt.Sprintf(full, 1, "/run"), "make state directory: ", "a file system is full"},
		{"no room for the lock", fmt.Sprintf(full, 2, "/run"), "open lock: ", "a file system is full"},
		{"no room for the instance", fmt.Sprintf(full, 3, "/run"), "claim instance: ", "a file system is full"},
		{"no room for the instance's lock", fmt.Sprintf(full, 4, "/run"), "open lock: ", "a file system is full"},
		{"state not writable", "mount -t tmpfs -o ro tmpfs /run", "make state directory: ", ""},
		{"pins not writable", "mount -t bpf -o ro bpf /sys/fs/bpf", "/sys/fs/bpf is mounted read-only", "ringfence doctor"},
		{"no cgroup2", "umount -a -t cgroup2", "cgroup2", "ringfence doctor"},
		{"a read-only cgroup2", "mount -o remount,bind,ro $CGROUP2", "cgroup2", "ringfence doctor"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := f.with(t)
			got := f.inMounts(tt.before, "--policy", policy, "--", "true").wait()
			if got.status != 125 || !strings.Contains(got.stderr, tt.says) || !strings.Contains(got.stderr, tt.hint) {
				t.Errorf("status %d\n%s", got.status, got.stderr)
			}
			if strings.Contains(got.stderr, "goroutine") || len(got.records) > 0 {
				t.Errorf("records %v\n%s", got.records, got.stderr)
			}
			noneAbandoned(t)
		})
	}
}

// inMounts starts a run in a mount namespace of its own, in which before was
// executed.
func (f *fixture) inMounts(before string, args ...string) *running {
	f.t.Helper()
	r := f.prepare(args...)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		f.t.Fatal(err)
	}
	// Descriptors of the test, by which the network namespace is named, are not
	// inherited: /proc is that of the same pid namespace.
	r.cmd.Args = append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", before + "\nexec \"$@\"", "sh"}, r.cmd.Args...)
	r.cmd.Path = unshare
	r.cmd.Env = append(r.cmd.Env, "CGROUP2="+filepath.Dir(cgroupsDir(f.t)))
	if err := r.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	return r
}

// Records that cannot be written are lost with a word, and stop nothing.
func TestRecordsToAFullDisk(t *testing.T) {
	f := newFixture(t)
	curl := realPath(t, "curl")
	policy := f.allow([]int{443}, curl)
	script := "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do curl -sS -o /dev/null https://" + allowedName + "/ || exit; done; exit 5"
	small := t.TempDir()
	tests := []struct{ name, before, path string }{
		{"no room at all", ":", "/dev/full"},
		{"room for some", "mount -t tmpfs -o size=4k tmpfs " + small, filepath.Join(small, "records")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := f.with(t)
			got := f.inMounts(tt.before, "--records", tt.path, "--policy", policy, "--", "/bin/sh", "-c", script).wait()
			if got.status != 5 {
				t.Errorf("status %d\n%s", got.status, got.stderr)
			}
			if !strings.Contains(got.stderr, "records are being lost: write records: ") || !strings.Contains(got.stderr, " records were lost") {
				t.Errorf("stderr:\n%s", got.stderr)
			}
		})
	}
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
