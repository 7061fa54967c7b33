package launch

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/netns"
)

// usage counts what a sandbox could leave behind.
type usage struct{ FDs, Mounts, Goroutines, Children int }

func measure(t *testing.T) usage {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	children := 0
	threads, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(threads) == 0 {
		t.Fatal("the kernel does not tell the children of a process:", err)
	}
	for _, thread := range threads {
		pids, err := os.ReadFile(thread)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // the thread may end meanwhile
			t.Fatal(err)
		}
		children += len(strings.Fields(string(pids)))
	}
	return usage{
		FDs: len(fds), Mounts: strings.Count(string(mounts), "\n"),
		Goroutines: runtime.NumGoroutine(), Children: children,
	}
}

// expectUsage waits a little: a goroutine that has done its work may not have ended,
// now or before.
func expectUsage(t *testing.T, before usage) {
	t.Helper()
	var after usage
	for range 100 {
		after = measure(t)
		before.Goroutines = min(before.Goroutines, after.Goroutines)
		if after == before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("(-before +after):\n%s", cmp.Diff(before, after))
}

// cycle is one sandbox with one command.
func cycle(t testing.TB, config Config) {
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	config.Netns = ns
	n, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c := command("true")
	c.Stdio = [3]*os.File{null, null, null}
	p, err := n.Exec(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Fatalf("status %+v, %v", status, err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	needRoot(t)
	config := Config{Name: "box", Cgroup: testGroup(t).File()}
	cycle(t, config)
	before := measure(t)
	threads := pthreads(t)
	for range 50 {
		cycle(t, config)
	}
	expectUsage(t, before)
	// A thread for each sandbox would hold its namespaces.
	if now := pthreads(t); now > threads+10 {
		t.Errorf("%d threads, %d before", now, threads)
	}
}

func pthreads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}

// A start that fails midway leaves nothing either, and says which step it was.
func TestFailedStartLeavesNothing(t *testing.T) {
	needRoot(t)
	config := Config{Name: strings.Repeat("x", 100), Cgroup: testGroup(t).File()}
	fail := func() {
		ns, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		config.Netns = ns
		if _, err := Start(t.Context(), config); err == nil || !strings.HasPrefix(err.Error(), "set host name: ") {
			t.Errorf("error %v", err)
		}
	}
	fail()
	before := measure(t)
	for range 5 {
		fail()
	}
	expectUsage(t, before)
}

// BenchmarkSandbox is the launcher's part of `ringfence run -- true`.
func BenchmarkSandbox(b *testing.B) {
	needRoot(b)
	config := Config{Name: "box", Cgroup: testGroup(b).File()}
	for b.Loop() {
		cycle(b, config)
	}
}
