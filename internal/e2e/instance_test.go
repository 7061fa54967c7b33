package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/cgroup"
)

// Where an agent keeps what outlives its process.
const (
	stateDir = "/run/ringfence"
	pinsDir  = "/sys/fs/bpf/ringfence"
)

func cgroupsDir(t testing.TB) string {
	t.Helper()
	root, err := cgroup.Find()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "ringfence")
}

// await polls until ok says yes, for at most ten seconds.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// instance returns the name of the run's agent, once it has claimed one.
func (r *running) instance() string {
	r.t.Helper()
	name := ""
	await(r.t, "the agent claims an instance", func() bool {
		name = claimedBy(r.cmd.Process.Pid)
		return name != ""
	})
	return name
}

// claimedBy returns the name of the instance that a process has claimed; "" where
// it has none.
func claimedBy(pid int) string {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		target, _ := os.Readlink(link)
		if dir, ok := strings.CutSuffix(target, "/lock"); ok && filepath.Dir(dir) == stateDir {
			return filepath.Base(dir)
		}
	}
	return ""
}

// partsOf returns what there is of an instance.
func partsOf(t testing.TB, instance string) []string {
	t.Helper()
	var parts []string
	for _, dir := range []string{stateDir, pinsDir, cgroupsDir(t)} {
		path := filepath.Join(dir, instance)
		if _, err := os.Stat(path); err == nil {
			parts = append(parts, path)
		}
	}
	return parts
}

// processesOf returns the processes of an instance's sandbox.
func processesOf(t testing.TB, instance string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cgroupsDir(t), instance, "sandbox", "cgroup.procs"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// noneAbandoned fails the test when there is an instance, or a part of one, that no
// live agent holds. Other agents may come and go on the machine meanwhile.
func noneAbandoned(t testing.TB) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if left = abandoned(t); len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind: %v", left)
}

func abandoned(t testing.TB) []string {
	t.Helper()
	var left []string
	for _, dir := range []string{stateDir, pinsDir, cgroupsDir(t)} {
		paths, err := filepath.Glob(filepath.Join(dir, "run-*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if !isHeld(t, filepath.Join(stateDir, filepath.Base(path), "lock")) {
				left = append(left, path)
			}
		}
	}
	return slices.Compact(left)
}

// isHeld looks whether somebody holds a lock. To try it would be in the way of one
// who just takes it.
func isHeld(t testing.TB, path string) bool {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino)
	return strings.Contains(string(locks), inode)
}

// startSaying starts a run of a shell script and returns once that has said
// "ready" on its standard output. What it says afterwards is read by the caller.
func (f *fixture) startSaying(policy, script string, flags ...string) (*running, *bufio.Reader) {
	f.t.Helper()
	r := f.prepare(append(flags, "--policy", policy, "--", "/bin/sh", "-c", script)...)
	r.cmd.Stdout = nil
	pipe, err := r.cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		r.wait()
		f.t.Fatalf("said %q, %v\n%s", line, err, r.stderr.String())
	}
	return r, out
}

// rest reads what is still to come.
func rest(t testing.TB, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// signal sends a signal to ringfence.
func (r *running) signal(sig syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.t.Fatal(err)
	}
}

// with returns the fixture for a subtest, which fails by itself and has its own
// temporary files.
func (f *fixture) with(t testing.TB) *fixture {
	sub := *f
	sub.t = t
	return &sub
}
