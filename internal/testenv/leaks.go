package testenv

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// settleTime is how long CheckLeaks waits for what ends by itself.
const settleTime = 10 * time.Second

// CheckLeaks fails the test when, after all later cleanups, there is more of
// something than now: goroutines and descriptors of this process, processes and
// namespaces below it, and mounts, cgroups and pinned BPF objects of the machine.
// So it stands before New, and in no parallel test.
//
// With names only mounts, cgroups and pins with a name in their path count, so
// that other tests may run on the machine. The test process becomes the reaper
// of its orphans: a process that lost its parent still is below it.
func CheckLeaks(tb testing.TB, names ...string) {
	tb.Helper()
	before, err := TakeSnapshot(names...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		leaked, err := before.Settle(settleTime)
		if err != nil {
			tb.Error(err)
		}
		if len(leaked) > 0 {
			tb.Errorf("left behind:\n  %s", strings.Join(leaked, "\n  "))
		}
	})
}

// Snapshot is what there is at one time.
type Snapshot struct {
	names []string
	items map[item]*tally
}

// item is one thing, or one kind of things that cannot be told apart.
type item struct {
	kind, name string
}

// tally says how many there are of an item, and more of it for a person.
type tally struct {
	count  int
	detail string
}

// TakeSnapshot looks at everything that CheckLeaks compares.
func TakeSnapshot(names ...string) (*Snapshot, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	if err := startPoller(); err != nil {
		return nil, err
	}
	s := &Snapshot{names: names, items: make(map[item]*tally)}
	s.goroutines()
	for _, look := range []func() error{s.descriptors, s.processes, s.mounts} {
		if err := look(); err != nil {
			return nil, fmt.Errorf("take snapshot: %w", err)
		}
	}
	return s, nil
}

// startPoller makes the runtime open the descriptors of its network poller now,
// so that they do not look like a leak later.
func startPoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("open pipe: %w", err)
	}
	_, _ = r.Close(), w.Close()
	return nil
}

func (s *Snapshot) add(kind, name, detail string) {
	t := s.items[item{kind, name}]
	if t == nil {
		t = new(tally)
		s.items[item{kind, name}] = t
	}
	t.count++
	t.detail = detail
}

// named reports whether the path counts.
func (s *Snapshot) named(path string) bool {
	return len(s.names) == 0 || slices.ContainsFunc(s.names, func(name string) bool {
		return strings.Contains(path, name)
	})
}

// Leaked returns a line for each thing that after has and s has not.
func (s *Snapshot) Leaked(after *Snapshot) []string {
	var lines []string
	keys := slices.SortedFunc(maps.Keys(after.items), func(a, b item) int {
		return strings.Compare(a.kind+" "+a.name, b.kind+" "+b.name)
	})
	for _, key := range keys {
		had, has := 0, after.items[key]
		if t := s.items[key]; t != nil {
			had = t.count
		}
		if has.count <= had {
			continue
		}
		line := fmt.Sprintf("%s %s", key.kind, key.name)
		if had > 0 || has.count > 1 {
			line += fmt.Sprintf(": %d, was %d", has.count, had)
		}
		if has.detail != "" {
			line += " (" + has.detail + ")"
		}
		lines = append(lines, line)
	}
	return lines
}

// Settle compares s with the present until nothing is left over, or the time is
// up, and returns what is left.
func (s *Snapshot) Settle(limit time.Duration) ([]string, error) {
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		if err := reapOrphans(); err != nil {
			return nil, err
		}
		after, err := TakeSnapshot(s.names...)
		if err != nil {
			return nil, err
		}
		leaked := s.Leaked(after)
		if len(leaked) == 0 || time.Now().After(deadline) {
			return leaked, nil
		}
		time.Sleep(pause)
	}
}
