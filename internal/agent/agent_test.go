package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"
)

// A link that the garbage collector closes detaches its hook without a word. With
// everything collected that can be, a connection is still captured.
func TestHooksSurviveGarbageCollection(t *testing.T) {
	sink := &tally{count: make(map[string]int)}
	a := startAgent(t, sink)
	engine := emptyPolicy(t)
	for range 3 {
		runtime.GC()
		debug.FreeOSMemory()
	}
	if err := use(t.Context(), a, engine, "collected"); err != nil {
		t.Fatal(err)
	}
	if n := sink.count["collected deny"]; n < 2 {
		t.Errorf("%d records: %v", n, sink.count)
	}
}

// stateOf makes what a killed agent leaves of an instance, with the lock held by
// hold until the test ends.
func stateOf(t *testing.T, name string, lock, hold bool) string {
	t.Helper()
	dir := filepath.Join(stateRoot, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if !lock {
		return dir
	}
	file, err := lockFile(filepath.Join(dir, "lock"), os.O_CREATE, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		t.Fatal(err)
	}
	if hold {
		t.Cleanup(func() { file.Close() })
	} else {
		file.Close()
	}
	return dir
}

// What is left of an instance is found by any part of it, however odd, and goes; what
// lives stays, also where somebody removed its directory.
func TestLeftoversOfAnotherKind(t *testing.T) {
	living := startAgent(t, &tally{count: make(map[string]int)})
	if err := os.RemoveAll(living.instance.dir); err != nil {
		t.Fatal(err)
	}
	cgroups := filepath.Dir(living.parent.Path())
	var odd []string
	mkdir := func(path string) {
		t.Helper()
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(path) })
	}
	leave := func(path string) {
		t.Helper()
		mkdir(path)
		odd = append(odd, path)
	}
	leave(filepath.Join(pinRoot, "run-900011")) // pins alone, of another layout
	mkdir(filepath.Join(pinRoot, "run-900011", "v2", "maps"))
	if err := os.Symlink("/dev/null", filepath.Join(pinRoot, "run-900011", "v2", "current")); err != nil {
		t.Fatal(err)
	}
	leave(filepath.Join(cgroups, "run-900012")) // a cgroup alone, nested
	mkdir(filepath.Join(cgroups, "run-900012", "pods", "a"))
	leave(filepath.Join(stateRoot, "run-900013")) // a lock that is none
	mkdir(filepath.Join(stateRoot, "run-900013", "lock", "more"))
	leave(filepath.Join(pinRoot, "run-elsewhere")) // no number
	file := filepath.Join(stateRoot, "run-900014")
	if err := os.WriteFile(file, []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	odd = append(odd, file)
	leave(filepath.Join(pinRoot, "run-900014"))

	startAgent(t, &tally{count: make(map[string]int)})

	for _, path := range odd {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	for _, path := range []string{living.instance.pinDir(), living.parent.Path()} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("of a living agent: %v", err)
		}
	}
}

// Only what no agent holds is a leftover.
func TestLeftovers(t *testing.T) {
	a := startAgent(t, &tally{count: make(map[string]int)})
	// Numbers beyond those that agents claim, so that none is in the way.
	dead := stateOf(t, "run-900001", true, false)
	living := stateOf(t, "run-900002", true, true)
	half := stateOf(t, "run-900003", false, false)
	pins := filepath.Join(pinRoot, "run-900001")
	if err := os.Mkdir(pins, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(pins) })
	cgroup := filepath.Join(filepath.Dir(a.parent.Path()), "run-900001")
	if err := os.MkdirAll(filepath.Join(cgroup, "sandbox"), 0o755); err != nil {
		t.Fatal(err)
	}

	startAgent(t, &tally{count: make(map[string]int)})

	for _, path := range []string{dead, half, pins, cgroup} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	for _, path := range []string{living, a.instance.dir, a.instance.pinDir(), a.parent.Path()} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("of a living agent: %v", err)
		}
	}
}
