package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
		run := exec.Command(other, "-test.run", "^TestOpenOfAnotherLayout$/^(contents|under load)$", "-test.v")
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

// waitUntil waits for something that is over soon, for a second, and says whether it was.
func waitUntil(ok func() bool) bool {
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
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
	c := newCrowd(t, cfg, 40, agent.add)
	waitFor(t, func() bool { return c.processes() > 150 }, func() any { return c.processes() })
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
	for outcome, n := range outcomes {
		// One that was frozen between its two calls asks for its peer in vain.
		ofFrozen := outcome == fmt.Sprint("peer 127.0.0.1:", capturePort) && n <= 40
		if outcome != "peer "+dest && !ofFrozen {
			t.Errorf("%d connects: %s", n, outcome)
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
	waitFor(t, func() bool { return c.processes() > 40 }, func() any { return c.processes() })
	agent.kill()
	go func() {
		for conn := range c.accepted {
			conn.Close()
		}
	}()
	leftFrozen, recovered := 0, 0
	for i := range 40 {
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
			moment = 60 * time.Millisecond
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
