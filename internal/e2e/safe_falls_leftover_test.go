package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/testenv"
)

// leftover is a killed agent's instance in whose cgroup a process outlived it, one
// that the network is open to but for the hooks: it tries all the time to connect to
// where it may not.
type leftover struct {
	name     string
	survivor *exec.Cmd
}

// leave makes a leftover.
func (f *fixture) leave(probe string) *leftover {
	f.t.Helper()
	r, _ := f.startSaying(f.allow([]int{443}, "/bin/none"), "echo ready; sleep 60")
	l := &leftover{name: r.instance()}
	r.signal(syscall.SIGKILL)
	r.wait()
	await(f.t, "the sandbox's processes are gone", func() bool { return len(processesOf(f.t, l.name)) == 0 })
	l.survivor = f.env.Command("/bin/sh", "-c", fmt.Sprintf("echo $$ >%s && exec %s -n 2000 -for 1m steady %s:%d",
		filepath.Join(l.cgroup(f.t), "cgroup.procs"), probe, deniedIPv4, testenv.PortEcho))
	if err := l.survivor.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = l.survivor.Process.Kill(); _ = l.survivor.Wait() })
	await(f.t, "the survivor is in the cgroup", func() bool {
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", l.survivor.Process.Pid))
		return err == nil && path == probe
	})
	return l
}

func (l *leftover) cgroup(t testing.TB) string { return filepath.Join(cgroupsDir(t), l.name) }

func (l *leftover) state() string { return filepath.Join(stateDir, l.name) }

func (l *leftover) pins() string { return filepath.Join(pinsDir, l.name) }

// alive reports whether the survivor runs.
func (l *leftover) alive() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.survivor.Process.Pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// What agents left, of this version or of another one, is removed processes first
// and hooks last: nothing gets out, not even of a process that outlived its agent.
func TestLeftoversStayClosed(t *testing.T) {
	f := newFixture(t)
	probe := f.tool(toolGo)
	policy := f.allow([]int{443}, "/bin/none")
	do := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name  string
		spoil func(l *leftover)
	}{
		{"as it was left", func(*leftover) {}},
		{"without a directory", func(l *leftover) { do(os.RemoveAll(l.state())) }},
		{"without a lock", func(l *leftover) { do(os.Remove(filepath.Join(l.state(), "lock"))) }},
		{"a file for a directory", func(l *leftover) {
			do(os.RemoveAll(l.state()), os.WriteFile(l.state(), nil, 0o600))
		}},
		{"a lock of another kind", func(l *leftover) {
			lock := filepath.Join(l.state(), "lock")
			do(os.Remove(lock), os.MkdirAll(filepath.Join(lock, "1"), 0o700))
		}},
		{"without maps", func(l *leftover) {
			maps, err := filepath.Glob(filepath.Join(l.pins(), "gen_*", "map_*"))
			do(err)
			if len(maps) == 0 {
				t.Fatal("no maps: nothing is tested")
			}
			for _, path := range maps {
				do(os.Remove(path))
			}
		}},
		{"maps of another layout", func(l *leftover) {
			nested := filepath.Join(l.pins(), "v2", "maps")
			do(os.MkdirAll(nested, 0o700))
			other, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 3})
			do(err)
			defer other.Close()
			found, err := filepath.Glob(filepath.Join(l.pins(), "gen_*", "map_sandboxes"))
			do(err)
			if len(found) != 1 {
				t.Fatalf("maps %v: nothing is tested", found)
			}
			do(other.Pin(filepath.Join(nested, "map_sandboxes")), os.Remove(found[0]), os.Symlink("../v2/maps/map_sandboxes", found[0]))
		}},
		{"more cgroups below", func(l *leftover) { do(os.MkdirAll(filepath.Join(l.cgroup(t), "sandbox", "a", "b"), 0o755)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := f.with(t)
			l := f.leave(probe)
			tt.spoil(l)
			time.Sleep(50 * time.Millisecond) // a hundred connects, refused
			if !l.alive() {
				t.Fatal("the survivor did not survive: nothing is tested")
			}
			if got := f.run("--policy", policy, "--", "true"); got.status != 0 {
				t.Errorf("the next run: status %d\n%s", got.status, got.stderr)
			}
			if parts := partsOf(t, l.name); len(parts) > 0 {
				t.Errorf("the next start has left %v", parts)
			}
			if l.alive() {
				t.Error("the survivor outlived the hooks")
			}
		})
	}
	noneAbandoned(t)
	f.env.NothingArrived(t, testenv.To(netip.MustParseAddr(deniedIPv4)))
}

// A leftover whose processes cannot be ended stays as it is, hooks and all; the run
// that could not remove it works, and a later one removes it.
func TestLeftoverThatCannotBeRemoved(t *testing.T) {
	f := newFixture(t)
	probe := f.tool(toolGo)
	policy := f.allow([]int{443}, "/bin/none")
	l := f.leave(probe)
	// In the view of this run no process of the leftover can be killed.
	got := f.inMounts("mount --bind /dev/full $CGROUP2/ringfence/"+l.name+"/cgroup.kill", "--policy", policy, "--", "true").wait()
	if got.status != 0 || !strings.Contains(got.stderr, "could not remove what a dead agent left") {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
	if parts := partsOf(t, l.name); len(parts) != 3 || !l.alive() {
		t.Errorf("of the leftover there is only %v; survivor alive: %v", parts, l.alive())
	}
	if got := f.run("--policy", policy, "--", "true"); got.status != 0 {
		t.Errorf("the next run: status %d\n%s", got.status, got.stderr)
	}
	noneAbandoned(t)
	f.env.NothingArrived(t, testenv.To(netip.MustParseAddr(deniedIPv4)))
}

// Garbage that carries an instance's name, and nothing else of one, is in nobody's
// way: a start removes it. What carries another name is not Ringfence's to touch.
func TestGarbage(t *testing.T) {
	f := newFixture(t)
	ours := []string{
		filepath.Join(stateDir, "run-x"), filepath.Join(pinsDir, "run-"), filepath.Join(pinsDir, "run-900021"),
		filepath.Join(cgroupsDir(t), "run-900022"), filepath.Join(stateDir, "run-99999999999999999999"),
	}
	theirs := []string{filepath.Join(pinsDir, "other"), filepath.Join(stateDir, "other"), filepath.Join(cgroupsDir(t), "other")}
	for _, path := range append(ours, theirs...) {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
	}
	if got := f.run("--policy", f.allow([]int{443}, "/bin/none"), "--", "true"); got.status != 0 {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
	for i, path := range append(ours, theirs...) {
		if _, err := os.Lstat(path); (err == nil) != (i >= len(ours)) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
