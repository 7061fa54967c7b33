package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/flow"
)

func TestOpenOfAnotherLayout(t *testing.T) {
	other := otherBuild(t)
	t.Run("contents", func(t *testing.T) {
		opening := testSuccession(t, succession{program: other, noSamples: true})
		if opening.How != Migrated {
			t.Errorf("opened: %+v", opening)
		}
		for name, fate := range fates(opening) {
			want := MapEmptied
			if slices.Contains(contentsOf()[name], MapConverted) {
				want = MapConverted
			}
			if fate != want {
				t.Errorf("map %s is %s, want %s", name, fate, want)
			}
		}
	})
	t.Run("under load", func(t *testing.T) { testUnderLoad(t, other) })
	t.Run("not frozen", func(t *testing.T) { testNotFrozen(t, other) })
	t.Run("killed midway", func(t *testing.T) { testKilledMidway(t, other) })
	t.Run("the other way", func(t *testing.T) {
		if os.Getenv(otherTest) == self(t) {
			t.Skip("this is it")
		}
		run := exec.Command(other, "-test.run", "^TestOpenOfAnotherLayout$/^(contents|under load)$", "-test.v", fmt.Sprint("-test.short=", testing.Short()))
		run.Env = append(os.Environ(), otherTest+"="+self(t))
		out, err := run.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Error(err)
		}
	})
}

// Another build takes over while hundreds of processes start programs, connect and
// end, some of them just then.
func testUnderLoad(t *testing.T, other string) {
	cfg := newParent(t)
	agent := startAgent(t, other, cfg)
	n := 40
	if testing.Short() {
		n = 8 // an emulated machine has enough of those
	}
	c := newCrowd(t, cfg, n, agent.add)
	agent.kill()
	killed := make(chan bool)
	go func() { c.killSome(cfg, 10); close(killed) }()
	dp, opening := reopen(t, cfg)
	c.dp = dp
	<-killed
	if opening.How != Migrated || opening.NotFrozen {
		t.Errorf("opened: %+v", opening)
	}
	for _, m := range opening.Maps {
		if m.Lost > 0 {
			t.Errorf("map %s lost %d entries", m.Name, m.Lost)
		}
	}
	done := make(chan bool)
	go func() { c.takeAll(); close(done) }()
	time.Sleep(time.Second) // of service
	outcomes := c.stop()
	<-done
	t.Logf("%d ended while nobody saw it; connects: %v", opening.Ended, outcomes)
	for outcome, times := range outcomes {
		// One that was frozen between its two calls asks for its peer in vain. And
		// without an agent for long, no room is left for origins.
		ofFrozen := outcome == fmt.Sprint("peer 127.0.0.1:", capturePort) && times <= n
		full := outcome == "operation not permitted" && c.stats().Rejected[flow.ReasonMapFull] == uint64(times)
		if outcome != "peer "+dest && !ofFrozen && !full {
			t.Errorf("%d connects: %s; rejected: %v", times, outcome, c.stats().Rejected)
		}
	}
	if n := c.stats().Rejected[flow.ReasonNoIdentity]; n > 0 || c.nobodys > 0 {
		t.Errorf("%d connects without identity, %d without origin", n, c.nobodys)
	}
	c.drain()
}

// Where nothing can be frozen, what is started meanwhile may have no identity, and is
// refused: but no connection is another program's, and no record stays for ever.
func testNotFrozen(t *testing.T, other string) {
	cfg := newParent(t)
	agent := startAgent(t, other, cfg)
	c := newCrowd(t, cfg, 8, agent.add)
	agent.kill()
	elsewhere, err := cgroup.Create(cfg.Parent + "-elsewhere")
	must(err)
	defer elsewhere.Close()
	dp, opening, err := open(cfg, &freezer{group: elsewhere, failed: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(errors.Join(elsewhere.Remove(), dp.Remove())) })
	c.dp = dp
	done := make(chan bool)
	go func() { c.takeAll(); close(done) }()
	time.Sleep(time.Second) // of service
	outcomes := c.stop()
	<-done
	t.Logf("%d ended while nobody saw it; connects: %v, %d of nobody; rejected: %v",
		opening.Ended, outcomes, c.nobodys, c.stats().Rejected)
	if fates(opening)[agentMapOrigins] != MapConverted || slices.ContainsFunc(opening.Maps, func(m MapReport) bool {
		return m.Name == agentMapOrigins && m.Entries > 0
	}) {
		t.Errorf("origins were copied: %v", opening.Maps)
	}
	c.checkOutcomes(outcomes)
	c.drain()
}

// Agents of one build and of another take over from each other, and are killed at it.
// Whoever comes next can go on, and all the time nothing passes.
func testKilledMidway(t *testing.T, other string) {
	cfg := newParent(t)
	agent := startAgent(t, "", cfg)
	c := newCrowd(t, cfg, 10, agent.add)
	agent.kill()
	go func() {
		for conn := range c.accepted {
			conn.Close()
		}
	}()
	leftFrozen, recovered := 0, 0
	kills := 40
	if testing.Short() {
		kills = 10
	}
	for i := range kills {
		published, err := readAbout(cfg.PinDir)
		if err != nil {
			t.Fatal(err)
		}
		program := ""
		if published.Tag == tagOf(cfg) {
			program = other
		}
		doomed := launchAgent(t, program, cfg)
		moment := 250 * time.Millisecond
		if i%4 > 0 { // where most is at stake: two generations are there
			waitUntil(func() bool {
				others, err := otherGenerations(cfg.PinDir, published.Generation)
				return err != nil || len(others) > 0
			})
			moment = 25 * time.Millisecond
		}
		time.Sleep(rand.N(moment))
		doomed.kill()
		if frozen(t, cfg) {
			leftFrozen++
		}
		if rand.N(2) == 0 { // else the next is killed again
			if opening := openOnce(t, cfg); opening.Recovered {
				recovered++
			}
		}
	}
	t.Logf("%d left the sandboxes frozen, %d were recovered from by one that lived", leftFrozen, recovered)
	dp, opening := reopen(t, cfg)
	c.dp = dp
	if frozen(t, cfg) {
		t.Error("the sandboxes are still frozen")
	}
	if _, err := dp.ExpireOrigins(0); err != nil {
		t.Error(err)
	}
	outcomes := c.stop()
	t.Logf("%+v: connects: %v", opening, outcomes)
	c.checkOutcomes(outcomes)
	c.drain()
	if left, err := otherGenerations(cfg.PinDir, dp.generation); err != nil || len(left) > 0 {
		t.Errorf("left of other generations: %v, %v", left, err)
	}
}

// openOnce opens as an agent does that is then killed.
func openOnce(t *testing.T, cfg Config) Opening {
	t.Helper()
	dp, opening, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if frozen(t, cfg) {
		t.Error("the sandboxes are still frozen")
	}
	if _, err := dp.ExpireOrigins(0); err != nil {
		t.Error(err)
	}
	if err := dp.Close(); err != nil {
		t.Error(err)
	}
	return opening
}
