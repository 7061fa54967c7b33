package e2e

import (
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Bounds of what one sandbox may cost, whatever it does.
const (
	maxAgentMemory = 192 << 20
	maxMapMemory   = 16 << 20
)

// countsIn returns what the runs of storm in an output counted, added up.
func countsIn(t testing.TB, output string) map[string]int {
	t.Helper()
	sum := map[string]int{}
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		counts := map[string]int{}
		if err := json.Unmarshal([]byte(line), &counts); err != nil {
			t.Fatal(err)
		}
		for what, n := range counts {
			sum[what] += n
		}
	}
	if found := leaks(sum); len(found) > 0 {
		t.Errorf("got out: %v", found)
	}
	return sum
}

// sumOf returns for how many refusals the records of a reason stand.
func sumOf(records []record, reason string) int {
	sum := 0
	for _, rec := range records {
		if rec.Reason == reason {
			sum += max(rec.Count, 1)
		}
	}
	return sum
}

// A hundred thousand connections at once that nobody accepts, as their agent stands
// still: so many get in as there is room for, the rest is refused and counted; the
// other sandbox does not notice; and when the agent goes on, so does the sandbox.
func TestHalfOpenFlood(t *testing.T) {
	const connects, room = 100_000, 8192 // bpf/types.h: SANDBOX_ORIGINS
	w := newWorld(t, 2)
	b := w.bystand(t, 1)
	own := net.JoinHostPort(hostName(0, false), strconv.Itoa(portJudge))
	denied := net.JoinHostPort(deniedIPv4, strconv.Itoa(portJudge))
	a := w.attack(t, "flood", w.storm+" -tag flood -n "+strconv.Itoa(connects)+" flood="+denied+`
		`+w.storm+" -tag flood -for 1ns talk="+own+"; echo over; read line")
	instance := a.instance()
	time.Sleep(calm)
	attack := time.Now()
	a.signal(syscall.SIGSTOP)
	a.tell()
	a.says("flooded")
	full := mapMemory(t, instance)
	time.Sleep(time.Until(attack.Add(calm))) // the bystander is to have its say
	over := time.Now()
	a.signal(syscall.SIGCONT)
	a.tell()
	said := ""
	for said == "" || !strings.HasSuffix(said, "over\n") {
		line, err := a.out.ReadString('\n')
		if said += line; err != nil {
			t.Fatalf("said %q, %v\n%s", said, err, a.stderr.String())
		}
	}
	memory := a.peakMemory()
	_, got := a.end()
	b.unharmed(t, attack, over)

	counts := countsIn(t, said)
	started, refused := counts["flood started"], counts["flood operation not permitted"]
	if started+refused != connects || started < room*9/10 || started > room+64 {
		t.Errorf("%d connections started and %d were refused, of %d: %v", started, refused, connects, counts)
	}
	if told := sumOf(got.of("kernel"), "map_full"); told != refused {
		t.Errorf("the records stand for %d refusals, there were %d", told, refused)
	}
	if counts["talk ok"] != 1 {
		t.Errorf("afterwards: %v", counts)
	}
	if full > maxMapMemory || memory > maxAgentMemory {
		t.Errorf("maps took %d MiB, the agent %d MiB", full>>20, memory>>20)
	}
	t.Logf("%d started, %d refused; maps %d KiB, agent at most %d MiB; %v", started, refused, full>>10, memory>>20, over.Sub(attack))
	w.check(t)
}

// Connections to an allowed host that never answers: each takes the agent's time and
// memory, up to as many as one sandbox may have; the rest is reset.
func TestUpstreamThatNeverAccepts(t *testing.T) {
	const connects, room = 10_000, 4096 // internal/relay: MaxConns
	w := newWorld(t, 2)
	if out, err := w.env.InternetCommand("ip", "route", "add", "blackhole", hostAddr(0, false)+"/32").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := w.bystand(t, 1)
	own := hostName(0, false)
	a := w.attack(t, "mute", `addr=$(getent ahostsv4 `+own+` | head -n1 | cut -d' ' -f1)
		exec `+w.storm+" -tag mute -n "+strconv.Itoa(connects)+" flood=$addr:"+strconv.Itoa(portJudge))
	time.Sleep(calm)
	attack := time.Now()
	a.tell()
	a.says("flooded")
	// On a quiet machine all that there is no room for are refused by now. A SYN that
	// finds the backlog full is sent again after a second, and may come too late.
	await(t, "those that there is no room for are refused", func() bool {
		return sumOf(readRecordsSoFar(t, a.recordsPath), "limit") > connects/4
	})
	time.Sleep(time.Until(attack.Add(calm)))
	over := time.Now()
	memory := a.peakMemory()
	a.tell()
	said, got := a.end()
	b.unharmed(t, attack, over)
	counts := countsIn(t, said)
	limited, all := sumOf(got.about(own), "limit"), len(got.about(own))
	if counts["flood started"] != connects || limited < connects/4 || limited > connects-room || all > connects {
		t.Errorf("%d of %d connections were refused at the limit, %d records, %v", limited, connects, all, counts)
	}
	// Each of the others took a place and kept it for as long as it may.
	if waited := sumOf(got.about(own), "shutdown") + sumOf(got.about(own), "upstream_unreachable"); waited < room || waited+limited != all {
		t.Errorf("%d waited and %d were refused at the limit, of %d", waited, limited, all)
	}
	if memory > maxAgentMemory {
		t.Errorf("the agent took %d MiB", memory>>20)
	}
	t.Logf("%d of %d at the limit; agent at most %d MiB; %v", limited, all, memory>>20, over.Sub(attack))
	w.check(t)
}

// Refusals as fast as the kernel can refuse: the agent is told some of them, and all
// are counted.
func TestRefusalFlood(t *testing.T) {
	w := newWorld(t, 2)
	b := w.bystand(t, 1)
	denied := net.JoinHostPort(deniedIPv4, strconv.Itoa(portJudge))
	a := w.attack(t, "hail", "exec "+w.storm+" -tag hail -for 2s -n 4 hail="+denied)
	time.Sleep(calm)
	attack := time.Now()
	a.tell()
	said, got := a.end()
	over := time.Now()
	b.unharmed(t, attack, over)
	counts := countsIn(t, said)
	refused := counts["hail operation not permitted"]
	if told := sumOf(got.of("kernel"), "udp"); told != refused || refused < 10_000 {
		t.Errorf("the records stand for %d refusals, there were %d", told, refused)
	}
	if n := len(got.records); n > 200 {
		t.Errorf("%d records: a sandbox can fill a disk by them", n)
	}
	t.Logf("%d refused, %d records", refused, len(got.records))
	w.check(t)
}

// Program images started as fast as can be, each of which connects: all have an
// identity, and none has another's.
func TestExecStorm(t *testing.T) {
	w := newWorld(t, 2)
	b := w.bystand(t, 1)
	own := net.JoinHostPort(hostName(0, false), strconv.Itoa(portSink))
	// A copy that no policy names does the same.
	other := w.copyOf(w.storm, "other")
	run := " -tag execs -for 3s -n 4 exec=" + own
	a := w.attack(t, "execs", w.storm+run+" & "+other+run+" & wait")
	time.Sleep(calm)
	attack := time.Now()
	a.tell()
	said, got := a.end()
	over := time.Now()
	b.unharmed(t, attack, over)
	counts := countsIn(t, said)
	byBinary := map[string]int{}
	for _, rec := range got.of("transparent") {
		byBinary[rec.Verdict+" "+rec.Binary]++
	}
	images := counts["exec ok"]
	connected := byBinary["allow "+w.storm] + byBinary["deny "+other]
	// One that looks up its host for too long on a busy machine does not connect.
	if len(byBinary) != 2 || byBinary["allow "+w.storm] == 0 || byBinary["deny "+other] == 0 ||
		connected > images || connected < images*9/10 {
		t.Errorf("%d images, records %v, counts %v", images, byBinary, counts)
	}
	t.Logf("%d images a second, records %v", images/int(over.Sub(attack).Seconds()), byBinary)
	w.check(t)
}

// A fork bomb has as many processes as its user may; the run ends all the same, with
// every one of them.
func TestForkBomb(t *testing.T) {
	const most = 400
	w := newWorld(t, 2)
	b := w.bystand(t, 1)
	a := w.attack(t, "bomb", "exec "+w.storm+" -tag bomb -for 2s forks="+strconv.Itoa(most))
	instance := a.instance()
	time.Sleep(calm)
	attack := time.Now()
	a.tell()
	seen := 0
	ended := make(chan string)
	go func() { ended <- rest(t, a.out) }()
	for said := ""; said == ""; {
		select {
		case said = <-ended:
		case <-time.After(20 * time.Millisecond):
			seen = max(seen, len(processesOf(t, instance)))
		}
	}
	over := time.Now()
	if got := a.wait(); got.status != 0 {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
	took := time.Since(over)
	b.unharmed(t, attack, over)
	if seen < most*3/4 {
		t.Errorf("there were at most %d processes: no bomb went off", seen)
	}
	if took > 5*time.Second {
		t.Errorf("the run ended %v after its command", took)
	}
	if parts := partsOf(t, instance); len(parts) > 0 {
		t.Errorf("left behind: %v", parts)
	}
	noneAlive(t, w.storm)
	t.Logf("%d processes at most; the run ended %v after its command", seen, took)
	w.check(t)
}
