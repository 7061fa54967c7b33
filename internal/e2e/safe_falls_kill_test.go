package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// prepareStorm prepares a run of storm in a slot, under the policy in a file.
func (w *world) prepareStorm(t testing.TB, tag, policy string, slot int, lasting time.Duration, seed uint64, flags ...string) *running {
	args := append([]string{"--policy", policy}, flags...)
	args = append(args, "--", w.storm, "-tag", tag, "-for", lasting.String(), "-seed", strconv.FormatUint(seed, 10))
	return w.with(t).prepare(append(args, deeds(slot)...)...)
}

// policyFile is where a slot's policy is; write puts a version there, as editors do.
func (w *world) policyFile(slot int) string {
	return filepath.Join(w.dir, fmt.Sprintf("policy%d.yaml", slot))
}

func (w *world) writePolicy(slot, version int, open bool) {
	w.t.Helper()
	next := w.file(fmt.Sprintf("next%d.yaml", slot), "version: 1\nnetwork_policies:\n"+w.policyOf(slot, version, open), 0o644)
	if err := os.Rename(next, w.policyFile(slot)); err != nil {
		w.t.Error(err)
	}
}

// An agent is killed at any instant of a run's life: before it has begun, while it
// starts, serves, takes another policy, and ends. Whatever the instant, nothing
// arrives that no policy allows, nothing that was written after the agent's end, and
// the next start finds and removes all that is left.
func TestKilledAtAnyInstant(t *testing.T) {
	const slots = 3
	kills := 60
	if testing.Short() {
		kills = 15
	}
	w := newWorld(t, slots+1)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	parts := map[int]int{} // how many parts of an instance a kill left → times
	var all sync.WaitGroup
	for slot := range slots {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(slot)))
			for i := range kills / slots {
				left := w.killOnce(t, random, slot, i)
				mu.Lock()
				parts[left]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	w.nothingNew(t, 300*time.Millisecond)
	if got := w.run("--policy", w.policyFile(0), "--", "true"); got.status != 0 {
		t.Errorf("the next run: status %d\n%s", got.status, got.stderr)
	}
	noneAbandoned(t)
	noneAlive(t, program, w.storm)
	flows := w.check(t)
	if parts[0] == 0 || parts[3] < kills/4 || w.lines < kills {
		t.Errorf("kills left %v parts, %d lines arrived: the instants are not those that matter", parts, w.lines)
	}
	t.Logf("%d kills left so many parts of an instance: %v; %d flows and %d lines arrived", kills, parts, flows, w.lines)
}

// killOnce starts a run and kills its agent at some instant, and returns how many
// parts of the instance are left.
func (w *world) killOnce(t *testing.T, random *rand.Rand, slot, i int) int {
	tag := fmt.Sprintf("kill-%d-%d", slot, i)
	run := w.begin(tag, slot)
	w.writePolicy(slot, 2*i, true)
	r := w.prepareStorm(t, tag, w.policyFile(slot), slot, 250*time.Millisecond, random.Uint64())
	r.cmd.Stdout, r.cmd.Stderr = nil, nil // no pipe, that others could keep open
	if err := r.cmd.Start(); err != nil {
		t.Error(err)
		return 0
	}
	instant := time.Duration(random.Int64N(int64(900 * time.Millisecond)))
	if random.IntN(2) == 0 { // some time before it is killed, or at the same time
		reload := time.AfterFunc(time.Duration(random.Int64N(int64(instant+1))), func() { w.writePolicy(slot, 2*i+1, false) })
		defer reload.Stop()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.cmd.Wait()
		w.set(func() { run.died = time.Now() })
	}()
	name := ""
	select {
	case <-ended:
	case <-time.After(instant):
		name = claimedBy(r.cmd.Process.Pid)
		_ = r.cmd.Process.Signal(syscall.SIGKILL)
		<-ended
	}
	if name == "" {
		return 0
	}
	await(t, "the sandbox's processes are gone", func() bool { return len(processesOf(t, name)) == 0 })
	return len(partsOf(t, name))
}

// noneAlive fails the test when a process still runs one of the programs.
func noneAlive(t testing.TB, programs ...string) {
	t.Helper()
	left := func() (found []string) {
		links, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, link := range links {
			// A process that has ended has no image any more.
			if image, err := os.Readlink(link); err == nil && slices.Contains(programs, strings.TrimSuffix(image, " (deleted)")) {
				found = append(found, filepath.Dir(link)+" "+image)
			}
		}
		return found
	}
	for deadline := time.Now().Add(5 * time.Second); len(left()) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("still alive: %v", left())
			return
		}
	}
}
