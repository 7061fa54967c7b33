package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// reloads changes the policy of one run until that ends.
type reloads struct {
	run     *worldRun
	slot    int
	random  *rand.Rand
	records *follower
	ended   <-chan struct{}
}

// reload changes a run's policy over and over: to a valid one that opens the second
// host or shuts it, and to what is none. It knows what is in force from the records.
func (c *chaos) reload(t *testing.T, r *reloads) {
	defer r.records.close()
	// Before the first record the agent may not have read the policy yet.
	if !r.await(func(record) bool { return true }) {
		return
	}
	for version := 1; ; version++ {
		select {
		case <-r.ended:
			return
		case <-time.After(between(r.random, 10*time.Millisecond, 500*time.Millisecond)):
		}
		kind := r.random.IntN(6)
		open := kind < 2
		switch kind {
		case 0, 1: // from now on it may be open
			c.set(func() { r.run.shut = time.Time{} })
			c.writePolicy(r.slot, version, true)
		case 2, 3:
			c.writePolicy(r.slot, version, false)
		case 4:
			c.breakPolicy(t, r.slot, version, r.random)
		case 5:
			if os.Remove(c.policyFile(r.slot)) != nil {
				continue // it is gone already
			}
		}
		want := "policy_loaded"
		if kind > 3 {
			want = "policy_refused"
		}
		var got record
		if !r.await(func(rec record) bool { got = rec; return rec.Mode == "policy" }) {
			select {
			case <-r.ended: // before it could say so
			default:
				t.Errorf("slot %d: no record of version %d", r.slot, version)
			}
			return
		}
		if got.Reason != want {
			t.Errorf("slot %d: version %d: %+v, want %s", r.slot, version, got, want)
		}
		if kind < 4 && !open {
			c.set(func() { r.run.shut = time.Now() })
		}
		c.note("reloads: "+want, 1)
	}
}

// breakPolicy puts what is no policy in its place.
func (c *chaos) breakPolicy(t *testing.T, slot, version int, random *rand.Rand) {
	garbage := make([]byte, 1+random.IntN(1000))
	for i := range garbage {
		garbage[i] = byte(random.Uint32())
	}
	texts := []string{
		"version: 1\nnetwork_policies: {everything: {endpoints: [], binaries: [{path: /**}]}}\n",
		c.policyOf(slot, random.IntN(1000), true), // cut: without its head
		"version: 2\n",
		string(garbage),
	}
	// The number makes each another text: what does not change is not told.
	text := fmt.Sprintf("# %d\n%s", version, texts[random.IntN(len(texts))])
	if err := os.Rename(c.file(fmt.Sprintf("broken%d", slot), text, 0o644), c.policyFile(slot)); err != nil {
		t.Error(err)
	}
}

// await reads records until one is right; false when the run ended, or when none
// came in ten seconds.
func (r *reloads) await(right func(record) bool) bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		for _, rec := range r.records.more() {
			if right(rec) {
				return true
			}
		}
		select {
		case <-r.ended:
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
	return false
}

// follower reads a file of records as it grows.
type follower struct {
	path string
	file *os.File // nil until it is there
	rest []byte   // of a line that is not whole yet
}

func follow(path string) *follower { return &follower{path: path} }

func (f *follower) close() {
	if f.file != nil {
		f.file.Close()
	}
}

// more returns the records since the last call.
func (f *follower) more() []record {
	if f.file == nil {
		var err error
		if f.file, err = os.Open(f.path); err != nil {
			return nil
		}
	}
	text, err := io.ReadAll(f.file)
	if err != nil {
		return nil
	}
	text = append(f.rest, text...)
	end := bytes.LastIndexByte(text, '\n') + 1
	f.rest = bytes.Clone(text[end:])
	var found []record
	for line := range bytes.Lines(text[:end]) {
		var rec record
		if json.Unmarshal(line, &rec) == nil {
			found = append(found, rec)
		}
	}
	return found
}

// toFiles gives a run files for its streams, which nobody has to keep reading.
func (r *running) toFiles() (stdout, stderr *os.File) {
	r.t.Helper()
	open := func(name string) *os.File {
		file, err := os.Create(filepath.Join(r.scratch(), name))
		if err != nil {
			r.t.Fatal(err)
		}
		return file
	}
	stdout, stderr = open("stdout"), open("stderr")
	r.cmd.Stdout, r.cmd.Stderr = stdout, stderr
	return stdout, stderr
}

// scratch is a directory that is the run's alone.
func (r *running) scratch() string { return filepath.Dir(r.recordsPath) }

func readAll(t testing.TB, file *os.File) string {
	t.Helper()
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
