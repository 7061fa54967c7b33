package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// rewrite puts a policy in a file's place, as editors do.
func (f *fixture) rewrite(path, network string) {
	f.t.Helper()
	next := f.file("next.yaml", "version: 1\nnetwork_policies:\n"+network, 0o644)
	if err := os.Rename(next, path); err != nil {
		f.t.Fatal(err)
	}
}

// reloads returns the records of reloads so far.
func (r *running) reloads() []record {
	r.t.Helper()
	return (&result{records: readRecordsSoFar(r.t, r.recordsPath)}).of("policy")
}

// readRecordsSoFar reads the whole lines of a file that is being written.
func readRecordsSoFar(t testing.TB, path string) []record {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		return nil // not there yet
	}
	var records []record
	for line := range strings.Lines(string(data)) {
		var rec record
		if strings.HasSuffix(line, "\n") {
			if err := json.Unmarshal([]byte(line), &rec); err != nil {
				t.Fatal(err)
			}
			records = append(records, rec)
		}
	}
	return records
}

// askingScript asks a host over and over, says what came of it when that changes,
// and ends when a file appears.
func askingScript(host, until string) string {
	return fmt.Sprintf(`echo ready
		before=
		while [ ! -e %s ]; do
			if curl -sS --noproxy '*' -o /dev/null https://%s/ 2>/dev/null; then now=reached; else now=refused; fi
			[ "$now" = "$before" ] || echo $now
			before=$now
			sleep 0.05
		done`, until, host)
}

// A file that changes is a new generation; one that is no policy is refused whole,
// and the one of before stays; so it is at SIGHUP.
func TestReload(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	curl := realPath(t, "curl")
	shut := allowBlock("allowed", allowedName, []int{443}, curl)
	open := shut + allowBlock("denied", deniedName, []int{443}, curl)
	policy := f.policy(shut)
	until := filepath.Join(f.dir, "until")
	r, out := f.startSaying(policy, askingScript(deniedName, until))
	says := func(want string) {
		t.Helper()
		if line, err := out.ReadString('\n'); line != want+"\n" {
			t.Fatalf("says %q, %v, want %q\n%s", line, err, want, r.stderr.String())
		}
	}
	reload := func(n int, verdict, reason string) record {
		t.Helper()
		await(t, "a record of the reload", func() bool { return len(r.reloads()) >= n })
		rec := r.reloads()[n-1]
		if rec.Verdict != verdict || rec.Reason != reason || rec.Engine != "policy" {
			t.Fatalf("record %d: %+v", n, rec)
		}
		return rec
	}
	says("refused")

	f.rewrite(policy, open)
	says("reached")
	opened := reload(1, "allow", "policy_loaded")

	f.rewrite(policy, "  denied: {endpoints: [], binaries: [{path: /x}]}\n")
	refused := reload(2, "deny", "policy_refused")
	if refused.Generation != opened.Generation || !strings.Contains(refused.Detail, "policy.yaml:3:23: network_policies.denied.endpoints: is empty") {
		t.Errorf("refused: %+v", refused)
	}
	time.Sleep(300 * time.Millisecond) // still reached: nothing is said

	if err := os.Remove(policy); err != nil {
		t.Fatal(err)
	}
	if gone := reload(3, "deny", "policy_refused"); !strings.Contains(gone.Detail, "no such file") {
		t.Errorf("gone: %+v", gone)
	}

	f.rewrite(policy, shut)
	says("refused")
	shutAgain := reload(4, "allow", "policy_loaded")
	if shutAgain.Generation <= opened.Generation {
		t.Errorf("generation %d after %d", shutAgain.Generation, opened.Generation)
	}

	r.signal(syscall.SIGHUP)
	if again := reload(5, "allow", "policy_loaded"); again.Generation <= shutAgain.Generation {
		t.Errorf("SIGHUP: generation %d after %d", again.Generation, shutAgain.Generation)
	}

	f.file("until", "", 0o644)
	if got := r.wait(); got.status != 0 {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
}

// holds opens a connection to each of two hosts, waits for the end of the second,
// and uses the first once more.
const holds = `
import socket, sys
kept, dropped = (socket.create_connection((h, %[1]d), 20) for h in ("%[2]s", "%[3]s"))
for s in (kept, dropped):
    s.sendall(b"a"); assert s.recv(1) == b"a"
print("ready", flush=True)
try:
    end = dropped.recv(1)
except ConnectionResetError:
    end = "reset"
print(end, flush=True)
kept.sendall(b"b")
print(kept.recv(1).decode(), flush=True)
`

// A connection that the new generation denies is reset within a second; one that
// it allows goes on.
func TestReloadClosesOnlyWhatIsDenied(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	testenv.Require(t, "/usr/bin/python3")
	python := realPath(t, "/usr/bin/python3")
	kept := allowBlock("kept", allowedName, []int{testenv.PortEcho}, python)
	policy := f.policy(kept + allowBlock("dropped", deniedName, []int{testenv.PortEcho}, python))
	script := f.file("holds.py", fmt.Sprintf(holds, testenv.PortEcho, allowedName, deniedName), 0o644)
	r, out := f.startSaying(policy, "exec "+python+" "+script)
	start := time.Now()
	f.rewrite(policy, kept)
	if line, err := out.ReadString('\n'); line != "reset\n" {
		t.Errorf("the denied connection ended with %q, %v", line, err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it was closed after %v", took)
	}
	if said := rest(t, out); said != "b\n" {
		t.Errorf("the allowed connection says %q", said)
	}
	got := r.wait()
	if got.status != 0 {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
	for _, rec := range got.of("transparent") {
		cut := rec.Host == deniedName
		if cut != (rec.Verdict == "deny") || cut != (rec.Detail == "denied by a later policy generation") {
			t.Errorf("%+v", rec)
		}
	}
}

// A policy that the sandbox's user can write is read once: a program could else
// change what it is held by.
func TestReloadRefusesTheSandboxsOwnFile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	curl := realPath(t, "curl")
	policy := f.policy(allowBlock("allowed", allowedName, []int{443}, curl))
	if err := os.Chown(policy, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	more := allowBlock("denied", deniedName, []int{443}, curl)
	r, out := f.startSaying(policy, fmt.Sprintf(`echo ready
		cat >>%s <<'EOF'
%sEOF
		sleep 1
		curl -sS --noproxy '*' https://%s/ >/dev/null 2>&1 && echo escaped`, policy, more, deniedName), "--user", "1000")
	await(t, "a record of the refusal", func() bool { return len(r.reloads()) > 0 })
	r.signal(syscall.SIGHUP)
	if said := rest(t, out); said != "" {
		t.Errorf("says %q", said)
	}
	got := r.wait()
	reloads := got.of("policy")
	if len(reloads) < 2 {
		t.Errorf("records: %+v", reloads)
	}
	for _, rec := range reloads {
		if rec.Verdict != "deny" || !strings.Contains(rec.Detail, "others than root can change it") {
			t.Errorf("%+v", rec)
		}
	}
	f.env.NothingArrived(t, testenv.To(netip.MustParseAddr(deniedIPv4)))
}

// While the policy is changed all the time, no connection fails that every
// generation allows, and none is let through by a generation that denies it.
func TestReloadUnderLoad(t *testing.T) {
	f := newFixtureWith(t, testenv.Config{NoWitness: true})
	lasting := 8 * time.Second
	if testing.Short() {
		lasting = 3 * time.Second
	}
	probe := f.tool(toolGo)
	// Every variant has names of its own, so that a record tells which it was decided
	// by. Every other one opens the second host.
	variant := func(i int) string {
		text := allowBlock("always_"+strconv.Itoa(i), allowedName, []int{testenv.PortEcho}, probe)
		if i%2 == 0 {
			text += allowBlock("sometimes_"+strconv.Itoa(i), deniedName, []int{testenv.PortEcho}, probe)
		}
		return text
	}
	policy := f.policy(variant(0))
	r := f.start("--policy", policy, "--", probe, "-n", "500", "-for", lasting.String(), "steady",
		fmt.Sprintf("%s:%d,%s:%d", allowedName, testenv.PortEcho, deniedName, testenv.PortEcho))
	await(t, "the first connections", func() bool { return len(readRecordsSoFar(t, r.recordsPath)) > 100 })
	for i, end := 1, time.Now().Add(lasting-1500*time.Millisecond); time.Now().Before(end); i++ {
		f.rewrite(policy, variant(i))
		loaded := len(r.reloads()) + 1
		await(t, "the reload", func() bool { return len(r.reloads()) >= loaded })
		time.Sleep(100 * time.Millisecond)
	}
	got := r.wait()

	var tallies []struct {
		OK, Wrong int
		First     string
	}
	if err := json.Unmarshal([]byte(sawIn(t, got.stdout).Data), &tallies); err != nil || got.status != 0 {
		t.Fatalf("status %d, %v\n%s", got.status, err, got.stderr)
	}
	always, sometimes := tallies[0], tallies[1]
	if always.Wrong > 0 || always.OK < 250*int(lasting.Seconds())*9/10 {
		t.Errorf("always allowed: %+v", always)
	}
	if sometimes.OK == 0 || sometimes.Wrong == 0 {
		t.Errorf("sometimes allowed: %+v", sometimes)
	}
	generations := variantsOf(t, got.of("transparent"))
	if len(generations) < 6 {
		t.Errorf("only %d generations were used", len(generations))
	}
	let := 0
	for _, rec := range got.of("transparent") {
		i, known := generations[rec.Generation]
		if rec.Host != deniedName || !known {
			continue // nothing was allowed by it that could be told
		}
		if open := i%2 == 0; open != (rec.Verdict == "allow") {
			t.Errorf("by variant %d: %+v", i, rec)
		}
		if rec.Detail == "denied by a later policy generation" {
			let++ // by the one before
		}
		if rec.Verdict == "allow" {
			let++
			if rec.Policy != "sometimes_"+strconv.Itoa(i) {
				t.Errorf("by variant %d: %+v", i, rec)
			}
		}
	}
	if sometimes.OK > let {
		t.Errorf("%d connections got through, %d records allow one", sometimes.OK, let)
	}
	t.Logf("always %+v, sometimes %+v, %d generations", always, sometimes, len(generations))
}

// variantsOf returns which variant each generation is of.
func variantsOf(t *testing.T, records []record) map[int]int {
	t.Helper()
	variants := map[int]int{}
	for _, rec := range records {
		text, ok := strings.CutPrefix(rec.Policy, "always_")
		if !ok {
			continue
		}
		i, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if before, known := variants[rec.Generation]; known && before != i {
			t.Errorf("generation %d is of variants %d and %d", rec.Generation, before, i)
		}
		variants[rec.Generation] = i
	}
	return variants
}

// A link that a policy names stands for its target as soon as it appears; one that
// the sandbox can change, only for a binary that puts up with it.
func TestLinks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	curl := realPath(t, "curl")
	own := filepath.Join(f.dir, "own")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(own, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	late := filepath.Join(f.dir, "late", "curl")
	policy := f.policy(
		allowBlock("late", allowedName, []int{443}, late) +
			allowBlock("own", deniedName, []int{443}, filepath.Join(own, "strict")) +
			fmt.Sprintf("  tolerant:\n    endpoints: [{host: %s, port: 80}]\n    binaries: [{path: %s, allow_taints: [writable]}]\n", allowedName, filepath.Join(own, "tolerant")))
	r, out := f.startSaying(policy, fmt.Sprintf(`
		ask() { curl -4 -sS --noproxy '*' -o /dev/null $1 2>/dev/null && echo reached || echo refused; }
		echo ready
		ask https://%[1]s/
		while [ ! -e %[3]s ]; do sleep 0.05; done
		sleep 0.5
		ask https://%[1]s/
		ln -s %[5]s %[4]s/strict
		ln -s %[5]s %[4]s/tolerant
		sleep 0.5
		ask https://%[2]s/
		ask http://%[1]s/
		rm %[4]s/tolerant
		sleep 0.5
		ask http://%[1]s/`, allowedName, deniedName, late, own, curl), "--user", "1000")
	if line, _ := out.ReadString('\n'); line != "refused\n" {
		t.Errorf("before the link is there: %q", line)
	}
	if err := os.Mkdir(filepath.Dir(late), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(curl, late); err != nil {
		t.Fatal(err)
	}
	if said := rest(t, out); said != "reached\nrefused\nreached\nrefused\n" {
		t.Errorf("says %q", said)
	}
	got := r.wait()
	var reasons []string
	for _, rec := range got.of("transparent") {
		reasons = append(reasons, rec.Reason)
	}
	if want := "wrong_binary allowed tainted allowed wrong_binary"; strings.Join(reasons, " ") != want {
		t.Errorf("reasons %v, want %s\n%s", reasons, want, got.stderr)
	}
}

// The operator's modules narrow what a policy allows, also when they come later.
func TestCustomModules(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	curl := realPath(t, "curl")
	policy := f.policy(allowBlock("allowed", allowedName, []int{443}, curl) + allowBlock("denied", deniedName, []int{443}, curl))
	rules := filepath.Join(f.dir, "rules")
	if err := os.Mkdir(rules, 0o755); err != nil {
		t.Fatal(err)
	}
	deny := func(host string) {
		f.file("rules/a.rego", fmt.Sprintf("package ringfence.custom\n\ndeny contains \"not today\" if input.network.host == %q\n", host), 0o644)
	}
	deny(deniedName)
	until := filepath.Join(f.dir, "until")
	r, out := f.startSaying(policy, askingScript(allowedName, until), "--rego", rules)
	if line, _ := out.ReadString('\n'); line != "reached\n" {
		t.Errorf("says %q", line)
	}
	deny(allowedName)
	if line, _ := out.ReadString('\n'); line != "refused\n" {
		t.Errorf("says %q", line)
	}
	f.file("until", "", 0o644)
	got := r.wait()
	found := false
	for _, rec := range got.of("transparent") {
		found = found || rec.Reason == "custom_rule" && strings.Contains(rec.Hint, "not today") && rec.Policy == "allowed"
	}
	if !found {
		t.Errorf("no record of it\n%s", got.stderr)
	}
}
