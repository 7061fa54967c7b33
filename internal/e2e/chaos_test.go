package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// How chaos is set up from outside: a duration and a seed. The seed repeats what is
// done and for how long, not how the machine interleaves it.
const (
	chaosEnv     = "RINGFENCE_CHAOS"
	chaosSeedEnv = "RINGFENCE_CHAOS_SEED"
	chaosDefault = 2 * time.Minute
)

// chaosSlots is how many sandboxes there are at a time, beside the bystander.
const chaosSlots = 4

// chaos is everything at once, for a while.
type chaos struct {
	*world
	moody *moodyResolver
	until time.Time

	mu    sync.Mutex
	tally map[string]int // of what was done and what came of it
}

func (c *chaos) note(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tally[what] += n
}

func (c *chaos) over() bool { return !time.Now().Before(c.until) }

// TestChaos lets everything happen at once: sandboxes that start, end and have their
// agents killed, policies that change to better and to worse, storms of connections,
// programs and transfers inside, a resolver that dies and comes back. Whatever
// arrives in the internet must be allowed by a policy in force; a bystander's
// connections all succeed; and in the end nothing is left.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("chaos takes minutes")
	}
	lasting, seed := chaosSettings(t)
	t.Logf("%s=%v %s=%d repeats this", chaosEnv, lasting, chaosSeedEnv, seed)
	w := newWorld(t, chaosSlots+1)
	c := &chaos{world: w, moody: newMoodyResolver(t, w.fixture), until: time.Now().Add(lasting), tally: map[string]int{}}
	b := w.bystand(t, chaosSlots)

	var all sync.WaitGroup
	for slot := range chaosSlots {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(slot)))
			for n := 0; !c.over() && !t.Failed(); n++ {
				c.life(t, slot, n, random)
			}
		})
	}
	all.Go(func() { c.moods(t, rand.New(rand.NewPCG(seed, chaosSlots))) })
	all.Go(func() {
		for !c.over() && !t.Failed() {
			time.Sleep(time.Second)
			c.note("flows that arrived", w.check(t))
		}
	})
	all.Wait()
	c.note("connections of the bystander", len(b.end(t)))
	c.aftermath(t)
	c.note("flows that arrived", w.check(t))
	c.note("lines that arrived", w.lines)
	for _, what := range slices.Sorted(maps.Keys(c.tally)) {
		t.Logf("%8d %s", c.tally[what], what)
	}
}

func chaosSettings(t *testing.T) (lasting time.Duration, seed uint64) {
	t.Helper()
	lasting, seed = chaosDefault, rand.Uint64()
	var err error
	if text := os.Getenv(chaosEnv); text != "" {
		if lasting, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv(chaosSeedEnv); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return lasting, seed
}

// moods changes the resolver's, and leaves it answering.
func (c *chaos) moods(t *testing.T, random *rand.Rand) {
	for !c.over() && !t.Failed() {
		now := mood(random.IntN(int(moods)))
		if random.IntN(2) == 0 {
			now = answering // half of the time at least
		}
		if err := c.moody.feel(now); err != nil {
			t.Error(err)
			return
		}
		c.note("resolver "+now.String(), 1)
		time.Sleep(between(random, 300*time.Millisecond, 3*time.Second))
	}
	if err := c.moody.feel(answering); err != nil {
		t.Error(err)
	}
}

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// aftermath: when it is over, every slot works as ever, and nothing of before is left.
func (c *chaos) aftermath(t *testing.T) {
	t.Helper()
	time.Sleep(1100 * time.Millisecond) // a failed lookup is remembered for a second
	var all sync.WaitGroup
	for slot := range chaosSlots {
		tag := fmt.Sprintf("after-%d", slot)
		c.begin(tag, slot)
		c.writePolicy(slot, 0, true)
		r := c.prepareStorm(t, tag, c.policyFile(slot), slot, time.Second, 1)
		all.Go(func() {
			if err := r.cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			got := r.wait()
			counts := countsIn(t, got.stdout)
			if got.status != 0 || counts["talk ok"] < 2 || counts["exec ok"] == 0 {
				t.Errorf("slot %d afterwards: status %d, %v\n%s", slot, got.status, counts, got.stderr)
			}
		})
	}
	all.Wait()
	noneAbandoned(t)
	noneAlive(t, program, c.storm)
}

// An ending is how a run of chaos comes to its end.
type ending struct {
	name   string
	signal syscall.Signal // 0: it ends by itself
	status int            // that it is to have; -1: killed
}

// endings has each as often as it is to happen.
func endings() []ending {
	kill := ending{"agents killed", syscall.SIGKILL, -1}
	itself := ending{"runs that ended by themselves", 0, 0}
	return []ending{kill, kill, kill, itself, itself, {"runs terminated", syscall.SIGTERM, 143}, {"runs interrupted", syscall.SIGINT, 130}}
}

// life is one run, from its start to its end.
func (c *chaos) life(t *testing.T, slot, n int, random *rand.Rand) {
	tag := fmt.Sprintf("chaos-%d-%d", slot, n)
	run := c.begin(tag, slot)
	open := random.IntN(2) == 0
	c.writePolicy(slot, 0, open)
	if !open {
		c.set(func() { run.shut = time.Now() })
	}
	lasting := max(min(between(random, 100*time.Millisecond, 4*time.Second), time.Until(c.until)), time.Millisecond)
	r := c.prepareStorm(t, tag, c.policyFile(slot), slot, lasting, random.Uint64())
	defer os.RemoveAll(r.scratch())
	out, stderr := r.toFiles()
	defer out.Close()
	defer stderr.Close()
	if err := r.cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.cmd.Wait()
		c.set(func() { run.died = time.Now() })
	}()
	how := endings()[random.IntN(len(endings()))]
	if how.signal != 0 {
		timer := time.AfterFunc(between(random, 0, lasting+time.Second), func() { _ = r.cmd.Process.Signal(how.signal) })
		defer timer.Stop()
	}
	c.reload(t, &reloads{run: run, slot: slot, random: random, records: follow(r.recordsPath), ended: ended})
	<-ended
	c.judgeEnd(t, tag, slot, r, how, readAll(t, out), readAll(t, stderr))
}

// judgeEnd looks at how a run ended, and at what it said and recorded.
func (c *chaos) judgeEnd(t *testing.T, tag string, slot int, r *running, how ending, stdout, stderr string) {
	status := r.cmd.ProcessState.ExitCode()
	// It may have ended by itself before its signal, or have been signalled before
	// there was anybody to catch it.
	if status != how.status && status != 0 && (status != -1 || how.signal == 0) || strings.Contains(stderr, "goroutine ") {
		t.Errorf("%s: status %d, want %d (%s)\n%s", tag, status, how.status, how.name, stderr)
	}
	if status == 0 {
		how.name = "runs that ended by themselves"
	}
	c.note(how.name, 1)
	for what, n := range countsIn(t, stdout) {
		c.note("inside: "+what, n)
	}
	for _, rec := range readRecordsSoFar(t, r.recordsPath) {
		if rec.Mode == "policy" {
			continue
		}
		c.note("records "+rec.Verdict, max(rec.Count, 1))
		allowed := rec.Binary == c.storm && (rec.Host == hostName(slot, false) || rec.Host == hostName(slot, true) && strings.HasPrefix(rec.Policy, "flip_"))
		if rec.Verdict == "allow" && !allowed {
			t.Errorf("%s: allowed: %+v", tag, rec)
		}
	}
}
