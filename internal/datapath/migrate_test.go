package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/flow"
)

func fates(o Opening) map[string]MapFate {
	all := map[string]MapFate{}
	for _, m := range o.Maps {
		all[m.Name] = m.Fate
	}
	return all
}

// Another build with the same maps: they are kept, and only programs change.
func TestOpenReplacesPrograms(t *testing.T) {
	opening := testSuccession(t, succession{noSamples: true, change: func(t testing.TB, c *Config) {
		made, err := readAbout(c.PinDir)
		if err != nil {
			t.Fatal(err)
		}
		made.Tag[0]++
		if err := made.publish(c.PinDir); err != nil {
			t.Fatal(err)
		}
	}})
	if opening.How != Migrated {
		t.Errorf("opened: %+v", opening)
	}
	for name := range contentsOf() {
		if fate := fates(opening)[name]; fate != MapKept {
			t.Errorf("map %s is %s", name, fate)
		}
	}
}

// Another build that has one hook less, and one more.
func TestOpenReplacesHooks(t *testing.T) {
	cfg := newParent(t)
	startAgent(t, "", cfg).kill()
	gone := filepath.Join(cfg.PinDir, "link_extra")
	pinExtraHook(t, cfg, gone)
	made, err := readAbout(cfg.PinDir)
	must(err)
	made.Tag[0]++
	must(errors.Join(
		os.Remove(filepath.Join(cfg.PinDir, "link_bind6")),
		os.Remove(filepath.Join(cfg.PinDir, "gen_1/hook_bind6")),
		made.publish(cfg.PinDir),
	))
	if _, opening := reopen(t, cfg); opening.How != Migrated {
		t.Errorf("opened: %+v", opening)
	}
	if !isPinned(filepath.Join(cfg.PinDir, "link_bind6")) || isPinned(gone) {
		t.Errorf("pins: %v", pinned(t, cfg.PinDir))
	}
}

// pinExtraHook attaches a hook under a name that no build has.
func pinExtraHook(t *testing.T, cfg Config, pin string) {
	t.Helper()
	program, err := ebpf.LoadPinnedProgram(filepath.Join(cfg.PinDir, "gen_1/hook_bind4"), nil)
	must(err)
	defer program.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cfg.Parent, Attach: ebpf.AttachCGroupInet4Bind, Program: program})
	must(err)
	defer l.Close()
	again, err := program.Clone()
	must(err)
	defer again.Close()
	must(errors.Join(l.Pin(pin), again.Pin(filepath.Join(cfg.PinDir, "gen_1/hook_extra"))))
}

// The same build, for more sandboxes or for fewer.
func TestOpenResizesMaps(t *testing.T) {
	for _, n := range []int{1, 30} {
		opening := testSuccession(t, succession{noSamples: true, change: func(_ testing.TB, c *Config) { c.MaxSandboxes = n }})
		if opening.How != Migrated {
			t.Errorf("opened: %+v", opening)
		}
		if got := fates(opening); got[agentMapTasks] != MapConverted || got[agentMapSockOrigins] != MapKept {
			t.Errorf("maps: %v", got)
		}
	}
}

// Another build has other variables, so that the bits of records stand for others.
func TestOpenRenumbersVariables(t *testing.T) {
	cfg := newParent(t)
	agent := startAgent(t, "", cfg)
	stdin, input := pipe(t)
	f := makeSandbox(t, cfg.Parent, started{
		argv: []string{self(t), "probe", "line", "tcp=" + dest}, stdin: stdin, env: []string{"NODE_OPTIONS=x", "LD_AUDIT=x"},
	}, agent.add)
	f.start()
	waitFor(t, func() bool { return isProbe(f) }, func() any { return "not started" })
	agent.kill()
	m, err := ebpf.LoadPinnedMap(filepath.Join(cfg.PinDir, "gen_1/map_preload_variables"), nil)
	must(err)
	defer m.Close()
	number := func(name string, n int) { // of the predecessor's
		var key agentVariable
		copy(key.Name[:], name)
		must(m.Put(key, uint32(n)))
	}
	own := flow.PreloadVariables()
	number("BASH_ENV", slices.Index(own, "NODE_OPTIONS"))
	number("NODE_OPTIONS", slices.Index(own, "BASH_ENV"))
	made, err := readAbout(cfg.PinDir)
	must(err)
	made.Tag[0]++
	must(made.publish(cfg.PinDir))

	dp, opening := reopen(t, cfg)
	f.dp = dp
	if fates(opening)[agentMapExecs] != MapConverted {
		t.Errorf("opened: %+v", opening)
	}
	input.Close()
	e, _ := f.take(f.capture4)
	if got, want := e.Preload.Names(), []string{"LD_AUDIT", "BASH_ENV"}; !cmp.Equal(got, want) {
		t.Errorf("variables = %v, want %v", got, want)
	}
	f.drop(e)
}

// What does not fit leaves all as it was, for an agent that it does fit.
func TestOpenGoesBack(t *testing.T) {
	cfg := newParent(t)
	agent := startAgent(t, "", cfg)
	for id := range uint64(3) {
		must(agent.add(Sandbox{CgroupID: id + 1}))
	}
	agent.kill()
	before := pinned(t, cfg.PinDir)
	small := cfg
	small.MaxSandboxes = 2
	var refusal *AdoptError
	if _, opening, err := Open(small); !errors.As(err, &refusal) {
		t.Fatalf("opened: %+v, %v", opening, err)
	}
	if frozen(t, cfg) {
		t.Error("the sandboxes are still frozen")
	}
	if diff := cmp.Diff(before, pinned(t, cfg.PinDir)); diff != "" {
		t.Errorf("pins: %s", diff)
	}
	dp, opening := reopen(t, cfg)
	if all, err := dp.Sandboxes(); len(all) != 3 || err != nil || opening.How != Adopted || opening.Recovered {
		t.Errorf("opened: %+v with %v, %v", opening, all, err)
	}
}

// Killed once all hooks were replaced, but before that was published: the predecessor's
// hooks and tables are in force again, less what was killed meanwhile.
func TestOpenUndoes(t *testing.T) {
	cfg := newParent(t)
	agent := startAgent(t, "", cfg)
	argv := []string{self(t), "probe", "line", "tcp=" + dest, "exec=" + self(t) + ",x,tcp=" + dest}
	stdin, input := pipe(t)
	f := makeSandbox(t, cfg.Parent, started{argv: argv, stdin: stdin}, agent.add)
	f.start()
	other := makeSandbox(t, cfg.Parent, started{argv: argv[:3], stdin: stdin}, agent.add)
	other.start()
	waitFor(t, func() bool { return isProbe(f) && isProbe(other) }, func() any { return "not started" })
	agent.kill()

	made, err := readAbout(cfg.PinDir)
	must(err)
	bigger := cfg
	bigger.MaxSandboxes++
	group, err := cgroup.Open(cfg.Parent)
	must(err)
	defer group.Close()
	killed := &Datapath{pinDir: cfg.PinDir, generation: 2}
	must(killed.migrate(bigger, 1, &freezer{group: group}, &Opening{}))
	must(made.publish(cfg.PinDir))
	must(killed.Close())
	if !frozen(t, cfg) {
		t.Fatal("the sandboxes are not frozen")
	}
	_ = other.launcher.Process.Kill()
	_ = other.launcher.Wait()

	dp, opening := reopen(t, cfg)
	f.dp, other.dp = dp, dp
	if opening.How != Adopted || !opening.Recovered || opening.Ended != 1 || opening.Frozen == 0 || frozen(t, cfg) {
		t.Errorf("opened: %+v", opening)
	}
	if s := other.stats(); s.Tasks+s.Execs > 0 {
		t.Errorf("of the one that was killed: %+v", s)
	}
	input.Close()
	e, _ := f.take(f.capture4)
	f.drop(e)
	after, _ := f.take(f.capture4)
	if len(after.Ancestors) != 1 || after.Ancestors[0] != e.Exec || taints(after) != 0 {
		t.Errorf("its next program is %+v", after)
	}
	f.drop(after)
	f.wait()
	f.waitForNothing()
}

// isProbe says whether the launcher has become the program.
func isProbe(f *fixture) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", f.launcher.Process.Pid))
	return err == nil && strings.HasPrefix(string(line), self(f.t)+"\x00")
}

func TestOpenOfAnotherLayout(t *testing.T) {
	other := otherBuild(t)
	t.Run("contents", func(t *testing.T) {
		opening := testSuccession(t, succession{program: other, noSamples: true})
		if opening.How != Migrated {
			t.Errorf("opened: %+v", opening)
		}
		for name, fate := range fates(opening) {
			if fate == MapKept || fate == MapEmptied == (len(contentsOf()[name]) > 1 && contentsOf()[name][1] == MapConverted) {
				t.Errorf("map %s is %s", name, fate)
			}
		}
	})
	t.Run("under load", func(t *testing.T) { testUnderLoad(t, other) })
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

// crowd is a sandbox full of programs that start others, connect and end, until stop.
type crowd struct {
	*fixture
	stopFile string
	accepted chan net.Conn
}

// newCrowd starts it: a third each connects, has children, or waits.
func newCrowd(t *testing.T, cfg Config, n int, add func(Sandbox) error) *crowd {
	t.Helper()
	c := &crowd{stopFile: filepath.Join(t.TempDir(), "stop"), accepted: make(chan net.Conn, 1<<16)}
	script := `exec 2>/dev/null # where the shell tells of those that are killed
	for i in $(seq ` + fmt.Sprint(n) + `); do
		` + self(t) + ` probe until=` + c.stopFile + `,tcp=` + dest + ` &
		(while [ ! -e ` + c.stopFile + ` ]; do sleep 0.05; done) &
		(while [ ! -e ` + c.stopFile + ` ]; do (sh -c "sleep 0.1; exec sleep 0.1") & sleep 0.2; done; wait) &
	done; wait`
	c.fixture = makeSandbox(t, cfg.Parent, started{argv: []string{realPath(t, "sh"), "-c", script}}, add)
	go func() {
		for {
			conn, err := c.capture4.Accept()
			if err != nil {
				close(c.accepted)
				return
			}
			c.accepted <- conn
		}
	}()
	c.start()
	if !waitUntil(func() bool { return c.processes() > 4*n }) { // each of these has a child or more
		t.Fatalf("%d processes", c.processes())
	}
	return c
}

// processes returns how many there are.
func (c *crowd) processes() int {
	text, err := os.ReadFile(filepath.Join(c.cgroup, "cgroup.procs"))
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}

// takeAll takes every connection, which all have to be of the program that connects.
func (c *crowd) takeAll() {
	origins := c.dp.Origins(c.cookie)
	for conn := range c.accepted {
		origin, err := origins.Take(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
		conn.Close()
		if err != nil {
			c.t.Errorf("a connection of nobody: %v", err)
			continue
		}
		e, err := c.dp.ReadExec(origin.Exec)
		if err != nil || e.Path != self(c.t) || origin.Destination.String() != dest || len(e.Ancestors) != 1 {
			c.t.Errorf("a connection to %v of %+v, %v", origin.Destination, e, err)
		}
		if err := c.dp.DropExec(origin.Exec); err != nil {
			c.t.Error(err)
		}
	}
}

// stop ends all programs and returns what connects came to.
func (c *crowd) stop() map[string]int {
	c.t.Helper()
	if err := os.WriteFile(c.stopFile, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	outcomes := map[string]int{}
	for _, line := range c.results() {
		times, outcome, _ := strings.Cut(line, "*")
		n, err := strconv.Atoi(times)
		if err != nil {
			c.t.Fatalf("program said %q", line)
		}
		outcomes[outcome] += n
	}
	c.capture4.Close()
	return outcomes
}

// waitUntil waits for something that may be over soon, and says whether it was.
func waitUntil(ok func() bool) bool {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if ok() {
			return true
		}
		time.Sleep(100 * time.Microsecond)
	}
	return false
}

// killSome kills programs of the crowd as soon as it is frozen, and then is done.
func (c *crowd) killSome(cfg Config, n int) {
	if !waitUntil(func() bool { return frozen(c.t, cfg) }) {
		return
	}
	time.Sleep(30 * time.Millisecond) // into it
	text, err := os.ReadFile(filepath.Join(c.cgroup, "cgroup.procs"))
	if err != nil {
		c.t.Error(err)
		return
	}
	for _, pid := range strings.Fields(string(text)) {
		id, err := strconv.Atoi(pid)
		if err != nil || n == 0 || id == c.launcher.Process.Pid {
			continue
		}
		if comm, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil && string(comm) == "sleep\n" {
			_ = unix.Kill(id, unix.SIGKILL)
			n--
		}
	}
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
		// One that was frozen between its two calls asks for its peer in vain.
		ofFrozen := outcome == fmt.Sprint("peer 127.0.0.1:", capturePort) && times <= n
		if outcome != "peer "+dest && !ofFrozen {
			t.Errorf("%d connects: %s", times, outcome)
		}
	}
	if n := c.stats().Rejected[flow.ReasonNoIdentity]; n > 0 {
		t.Errorf("%d connects without identity", n)
	}
	c.waitForNothing()
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
	for outcome, n := range outcomes {
		switch outcome {
		case "peer " + dest, fmt.Sprint("peer 127.0.0.1:", capturePort), "connection refused", "operation not permitted":
		default:
			t.Errorf("%d connects: %s", n, outcome)
		}
	}
	waitFor(t, func() bool { return c.stats().Tasks == 0 }, func() any { return c.stats() })
	if _, err := dp.ExpireOrigins(0); err != nil {
		t.Error(err)
	}
	c.waitForNothing()
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

// A process whose exit no hook saw goes with its use of the record; others stay.
func TestEndedProcessesAreDropped(t *testing.T) {
	stdin, input := pipe(t)
	dp, parent := loadDatapath(t)
	f := newSandboxOf(t, dp, parent, started{argv: []string{self(t), "probe", "tcp=" + dest, "line"}, stdin: stdin})
	f.start()
	e, _ := f.take(f.capture4)
	f.drop(e)
	pid := uint32(f.launcher.Process.Pid)
	var entry agentTask
	var record agentExecRecord
	var state agentSandboxState
	must(errors.Join(
		dp.objects.Tasks.Lookup(pid, &entry), dp.objects.Execs.Lookup(entry.Exec, &record),
		dp.objects.SandboxStates.Lookup(f.cgroupID, &state),
	))
	entry.StartBoottime++ // one of an earlier process
	record.Users++
	state.Tasks++
	gone := uint32(1 << 30) // above all that there are
	must(errors.Join(
		dp.objects.Tasks.Put(gone, entry), dp.objects.Execs.Put(entry.Exec, record),
		dp.objects.SandboxStates.Put(f.cgroupID, state),
	))
	if n, err := dp.dropEnded(); n != 1 || err != nil {
		t.Errorf("%d dropped, %v", n, err)
	}
	if s := f.stats(); s.Tasks != 1 || s.Execs != 1 {
		t.Errorf("left: %+v", s)
	}
	input.Close()
	f.wait()
	f.waitForNothing()
}

// BenchmarkTakeover is what it takes to replace the hooks and convert the tables of a
// node with 10,000 programs, none of which lives any more.
func BenchmarkTakeover(b *testing.B) {
	cfg := newParent(b)
	startAgent(b, "", cfg).kill()
	var opens, frozen []time.Duration
	for i := 0; b.Loop(); i++ {
		dp, _, err := Open(cfg)
		must(err)
		must(dp.AddSandbox(Sandbox{CgroupID: 1}))
		for n := range uint32(10_000) {
			id := agentExecId{Tgid: 1<<30 + n, Time: 1}
			must(errors.Join(
				dp.objects.Execs.Put(id, agentExecRecord{Id: id, Sandbox: 1, Users: 1, Refs: 1}),
				dp.objects.Tasks.Put(id.Tgid, agentTask{Sandbox: 1, Exec: id}),
			))
		}
		must(dp.Close())
		cfg.MaxSandboxes = 8 + (i+1)%2
		start := time.Now()
		dp, opening, err := Open(cfg)
		must(err)
		if opening.How != Migrated || opening.Ended != 10_000 {
			b.Fatalf("opened: %+v", opening)
		}
		opens, frozen = append(opens, time.Since(start)), append(frozen, opening.Frozen)
		must(errors.Join(dp.RemoveSandbox(1), dp.Close()))
	}
	b.ReportMetric(float64(median(opens).Microseconds())/1000, "ms/takeover")
	b.ReportMetric(float64(median(frozen).Microseconds())/1000, "ms-frozen/takeover")
}
