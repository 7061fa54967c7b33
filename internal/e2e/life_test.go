package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// A signal to ringfence is the command's to handle, once there is one.
func TestSignalsReachTheCommand(t *testing.T) {
	f := newFixture(t)
	policy := f.allow([]int{443}, "/bin/none")
	// The shell waits for its child with wait, which a trap interrupts.
	waiting := func(traps string) string { return traps + "\necho ready; sleep 60 & wait; wait; echo went on" }
	tests := []struct {
		name   string
		script string
		signal syscall.Signal
		status int
		says   string
	}{
		{"INT by default", waiting(""), syscall.SIGINT, 130, ""},
		{"TERM by default", waiting(""), syscall.SIGTERM, 143, ""},
		{"QUIT by default", waiting(""), syscall.SIGQUIT, 131, ""},
		{"INT trapped", waiting("trap 'echo caught; exit 42' INT"), syscall.SIGINT, 42, "caught\n"},
		{"TERM trapped", waiting("trap 'echo caught; exit 43' TERM"), syscall.SIGTERM, 43, "caught\n"},
		{"HUP is not the command's", "trap 'echo caught; exit 44' HUP; echo ready; sleep 1; echo went on; exit 48", syscall.SIGHUP, 48, "went on\n"},
		{"INT ignored", "trap '' INT; echo ready; sleep 1; echo went on; exit 45", syscall.SIGINT, 45, "went on\n"},
		{"TERM ignored for a while", "trap '' TERM; echo ready; sleep 1; echo went on; exit 46", syscall.SIGTERM, 46, "went on\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := f.with(t)
			r, out := f.startSaying(policy, tt.script)
			instance := r.instance()
			r.signal(tt.signal)
			said := rest(t, out)
			if got := r.wait(); got.status != tt.status || said != tt.says {
				t.Errorf("status %d, said %q; want %d, %q\n%s", got.status, said, tt.status, tt.says, got.stderr)
			}
			if parts := partsOf(t, instance); len(parts) > 0 {
				t.Errorf("left behind: %v", parts)
			}
		})
	}
}

// A command that ignores SIGTERM has ten seconds; then it is killed, with all that
// it started.
func TestCommandThatIgnoresSIGTERM(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, out := f.startSaying(f.allow([]int{443}, "/bin/none"), "trap '' TERM; echo ready; while :; do sleep 5; done")
	instance := r.instance()
	start := time.Now()
	r.signal(syscall.SIGTERM)
	rest(t, out)
	got := r.wait()
	if took := time.Since(start); took < 9*time.Second || took > 15*time.Second {
		t.Errorf("took %v", took)
	}
	if got.status != 143 || !strings.Contains(got.stderr, "terminated") {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
	if parts := partsOf(t, instance); len(parts) > 0 {
		t.Errorf("left behind: %v", parts)
	}
}

// nohup, and a shell that starts a job in the background, ignore signals for the
// command: so does ringfence.
func TestIgnoredSignalsStayIgnored(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.prepare("--policy", f.allow([]int{443}, "/bin/none"), "--", "/bin/sh", "-c", "sleep 2; exit 47")
	r.cmd.Args = append([]string{"sh", "-c", `trap "" HUP INT; exec "$@"`, "sh"}, r.cmd.Args...)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Path = sh
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	instance := r.instance()
	await(t, "the command runs", func() bool { return len(processesOf(t, instance)) > 1 })
	r.signal(syscall.SIGHUP)
	r.signal(syscall.SIGINT)
	if got := r.wait(); got.status != 47 {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
}

// A start that is interrupted, wherever it is, leaves nothing.
func TestSignalsDuringTheStart(t *testing.T) {
	f := newFixture(t)
	policy := f.allow([]int{443}, "/bin/none")
	for i := range 16 {
		signal := []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT}[i%3]
		r := f.start("--policy", policy, "--", "sleep", "60")
		time.Sleep(time.Duration(i) * 25 * time.Millisecond)
		r.signal(signal)
		got := r.wait()
		// -1: so early that nothing was there to catch it.
		if got.status != 128+int(signal) && got.status != -1 {
			t.Errorf("after %d ms: status %d\n%s", 25*i, got.status, got.stderr)
		}
		if strings.Contains(got.stderr, "goroutine") {
			t.Errorf("after %d ms:\n%s", 25*i, got.stderr)
		}
	}
	noneAbandoned(t)
}

// What the command leaves behind ends with it, and does not keep the run.
func TestBackgroundProcessesEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	mark := strconv.Itoa(3600 + os.Getpid()) // seconds, so that only ours are found
	script := fmt.Sprintf(`trap '' HUP TERM
		sleep %[1]s &
		setsid sleep %[1]s &
		(setsid sh -c 'trap "" HUP TERM INT; sleep %[1]s; :' &)
		echo ready; read line; exit 9`, mark)
	r := f.prepare("--policy", f.allow([]int{443}, "/bin/none"), "--", "/bin/sh", "-c", script)
	stdin, err := r.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := func() int {
		out, _ := exec.Command("pgrep", "-f", "-x", "sleep "+mark).Output()
		return len(strings.Fields(string(out)))
	}
	await(t, "three sleeps run", func() bool { return running() == 3 })
	start := time.Now()
	stdin.Close()
	if got := r.wait(); got.status != 9 {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the run took %v to end", took)
	}
	if n := running(); n > 0 {
		t.Errorf("%d processes outlived the run", n)
	}
}

// The agent is killed in mid-load: every process of the sandbox dies with it,
// nothing gets out afterwards, and the next start removes what is left, of this
// instance only.
func TestAgentKilledUnderLoad(t *testing.T) {
	f := newFixture(t)
	curl := realPath(t, "curl")
	policy := f.allow([]int{443}, curl)
	bystander, _ := f.startSaying(policy, "echo ready; sleep 60")
	load := fmt.Sprintf(`echo ready
		for i in 1 2 3 4; do
			while :; do curl -s -m 2 -o /dev/null https://%s/; curl -s -m 2 -o /dev/null http://%s/; done &
		done; wait`, allowedName, deniedIPv4)
	r, _ := f.startSaying(policy, load)
	instance := r.instance()
	await(t, "the load arrives", func() bool { return len(f.requestsFor(allowedName)) > 8 })

	r.signal(syscall.SIGKILL)
	killed := time.Now()
	if got := r.wait(); got.status != -1 {
		t.Errorf("status %d", got.status)
	}
	await(t, "the sandbox's processes are gone", func() bool { return len(processesOf(t, instance)) == 0 })
	if took := time.Since(killed); took > 2*time.Second {
		t.Errorf("the sandbox outlived its agent for %v", took)
	}
	// Connections of the dead agent may still say goodbye; new ones there are none.
	f.nothingNew(t, 500*time.Millisecond)
	f.env.NothingArrived(t, testenv.To(netip.MustParseAddr(deniedIPv4)))

	// The hooks are still there: what got into the cgroup now would be refused.
	if parts := partsOf(t, instance); len(parts) != 3 {
		t.Errorf("of the killed instance there is only %v", parts)
	}
	living := bystander.instance()
	if got := f.sh(policy, "curl -sS -o /dev/null https://"+allowedName+"/"); got.status != 0 {
		t.Errorf("the next run: status %d\n%s", got.status, got.stderr)
	}
	if parts := partsOf(t, instance); len(parts) > 0 {
		t.Errorf("the next start has left %v", parts)
	}
	if parts := partsOf(t, living); len(parts) != 3 {
		t.Errorf("of a living instance there is only %v", parts)
	}
	bystander.signal(syscall.SIGTERM)
	bystander.wait()
}

// nothingNew fails the test when a connection is opened while it looks.
func (f *fixture) nothingNew(t *testing.T, during time.Duration) {
	t.Helper()
	opened := func() map[netip.AddrPort]bool {
		flows, err := f.env.Flows()
		if err != nil {
			t.Fatal(err)
		}
		sources := make(map[netip.AddrPort]bool)
		for _, flow := range flows {
			sources[flow.Source] = true
		}
		return sources
	}
	before := opened()
	time.Sleep(during)
	for source := range opened() {
		if !before[source] {
			t.Errorf("a connection was opened from %v", source)
		}
	}
}

// Runs at the same time have nothing of each other's.
func TestRunsAtTheSameTime(t *testing.T) {
	f := newFixture(t)
	curl := realPath(t, "curl")
	policy := f.allow([]int{443}, curl)
	const runs = 6
	results := make([]*result, runs)
	uids := make(map[int]bool)
	var mu sync.Mutex
	var group sync.WaitGroup
	for i := range runs {
		group.Go(func() {
			host := fmt.Sprintf("%s/?run=%d", allowedName, i)
			r := f.sh(policy, "curl -sS -o /dev/null https://"+host+" && curl -s http://"+deniedName+"; exit "+strconv.Itoa(i))
			mu.Lock()
			defer mu.Unlock()
			results[i] = r
		})
	}
	group.Wait()
	for i, r := range results {
		if r.status != i {
			t.Errorf("run %d: status %d\n%s", i, r.status, r.stderr)
		}
		if len(r.records) != 2 || r.records[0].Verdict != "allow" || r.records[1].Verdict != "deny" {
			t.Errorf("run %d: records %+v", i, r.records)
			continue
		}
		uids[r.records[0].UID] = true
	}
	if len(uids) != runs {
		t.Errorf("%d runs share %d users", runs, len(uids))
	}
	noneAbandoned(t)
}

// Twenty runs leave nothing of themselves on the machine: no part of an instance,
// and no process that lost its parent.
func TestTwentyRuns(t *testing.T) {
	testenv.CheckLeaks(t, "no path of the machine: other agents may run on it")
	f := newFixture(t)
	curl := realPath(t, "curl")
	policy := f.allow([]int{443}, curl)
	for i := range 20 {
		if r := f.sh(policy, fmt.Sprintf("curl -sS -o /dev/null https://%s/ && sleep 1000 & exit %d", allowedName, i)); r.status != i {
			t.Fatalf("run %d: status %d\n%s", i, r.status, r.stderr)
		}
	}
	noneAbandoned(t)
}
