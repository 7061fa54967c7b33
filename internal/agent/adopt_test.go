package agent

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/sandbox"
	"github.com/ringfence/ringfence/internal/testenv"
)

// connecting is a program that asks for a name once, and then connects again and again
// to the address that it was given. Where nobody listens it sends a datagram, which the
// hooks refuse. It tells its pid, and what comes of each try.
const connecting = `
read -r ip _ < <(getent ahostsv4 allowed.test)
echo "pid $$"
while :; do
	if { exec 3<>/dev/tcp/$ip/25; } 2>/dev/null; then
		line=; read -t 5 -r line <&3; exec 3>&-
		echo "got ${line:-nothing}"
	else
		echo refused
		python3 -c 'import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.9", 9))' 2>/dev/null
	fi
	sleep 0.02
done`

// follow reads the lines of a file that grows.
type follow struct {
	t *testing.T
	f *os.File
	r *bufio.Reader
}

func newFollow(t *testing.T, path string) *follow {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &follow{t, f, bufio.NewReader(f)}
}

// await returns the next line that begins so, and counts the others.
func (f *follow) await(prefix string) (line string, others int) {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		part, err := f.r.ReadString('\n')
		line += part
		if err != nil {
			time.Sleep(2 * time.Millisecond)
			continue
		}
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSpace(line), others
		}
		line = ""
		others++
	}
	f.t.Fatalf("no line begins with %q, of %d", prefix, others)
	return "", 0
}

// skip passes over what was written so far.
func (f *follow) skip() {
	f.t.Helper()
	if _, err := f.f.Seek(0, 2); err != nil {
		f.t.Fatal(err)
	}
	f.r.Reset(f.f)
}

func newWorld(t testing.TB) *testenv.Env {
	t.Helper()
	testenv.Require(t, "bash", "getent", "python3")
	env := testenv.New(t)
	env.Zone("allowed.test", netip.MustParseAddr("198.51.100.7"))
	return env
}

const lookAround = `for n in mnt pid net ipc uts; do readlink /proc/self/ns/$n; done`

// An agent is killed under a sandbox whose program goes on: it is refused until another
// agent has adopted it, and then served as what it is, at the address it was given.
func TestAdoptAfterKill(t *testing.T) {
	instance := instanceOf(t)
	env := newWorld(t)
	first := startRemote(t, env, instance)
	state := first.do(order{Create: []string{"box"}}).States["box"]
	log := filepath.Join(t.TempDir(), "log")
	first.do(order{Exec: &remoteCommand{Sandbox: "box", Script: connecting, Log: log}})
	lines := newFollow(t, log)
	pid, _ := lines.await("pid ")
	lines.await("got 220")
	before := first.run("box", lookAround)

	first.kill()
	lines.await("refused")
	lines.await("refused")
	// What starts meanwhile does not touch it.
	other := startAgent(t, &tally{count: map[string]int{}})
	if err := use(t.Context(), other, emptyPolicy(t), "besides"); err != nil {
		t.Error(err)
	}

	second := startRemote(t, env, instance)
	adopted := second.do(order{Adopt: map[string]sandbox.State{"box": state}})
	if len(adopted.Lost) > 0 {
		t.Fatal(adopted.Lost)
	}
	second.do(order{Claim: []string{}})
	lines.await("got 220")
	if got := second.run("box", lookAround); got != before {
		t.Errorf("namespaces are %q, were %q", got, before)
	}
	number := strings.TrimPrefix(pid, "pid ")
	if got := second.run("box", "kill -0 "+number+" && echo alive"); got != "alive\n" {
		t.Errorf("process %s: %q", number, got)
	}
	if err := use(t.Context(), other, emptyPolicy(t), "besides"); err != nil {
		t.Error(err)
	}
	served, refused := expectRecords(t, second)
	if served.Binary != "/usr/bin/bash" || served.Host != "allowed.test" {
		t.Errorf("the first connection is told as %+v", served)
	}

	// What was refused is told once, whoever is killed.
	second.kill()
	third := startRemote(t, env, instance)
	third.do(order{Adopt: map[string]sandbox.State{"box": state}})
	third.do(order{Claim: []string{}})
	lines.skip()
	lines.await("got 220")
	third.run("box", "kill -KILL "+number)
	third.do(order{Close: true})
	_, again := expectRecords(t, third)
	tried := uint64(strings.Count(readFile(t, log), "refused\n"))
	if told := refused + again; told > tried || told < tried-1 { // the one that was killed may not have sent
		t.Errorf("%d and %d datagrams were told, of %d", refused, again, tried)
	}
	expectNothing(t, instance)
}

// expectRecords waits until an agent has told all, and returns its first record of a
// connection that was allowed, and how many datagrams were refused.
func expectRecords(t *testing.T, r *remote) (served toldRecord, refused uint64) {
	t.Helper()
	time.Sleep(untoldAfter + 500*time.Millisecond)
	for _, record := range r.do(order{Tell: true}).Records {
		switch {
		case record.Reason == flow.ReasonUDP:
			refused += record.Count
		case record.Allowed && served.Host == "" && record.Host != "":
			served = record
		}
	}
	return served, refused
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// An agent that stops leaves its sandboxes as one that is killed; a second one at the
// same time is refused.
func TestDetachAndAdopt(t *testing.T) {
	instance := instanceOf(t)
	env := newWorld(t)
	first := startRemote(t, env, instance)
	state := first.do(order{Create: []string{"box"}}).States["box"]
	log := filepath.Join(t.TempDir(), "log")
	first.do(order{Exec: &remoteCommand{Sandbox: "box", Script: connecting, Log: log}})
	lines := newFollow(t, log)
	lines.await("got 220")
	second := launchRemote(t, env, instance).answer()
	if want := fmt.Sprintf("instance %q is another agent's (process %d)", instance, first.cmd.Process.Pid); second.Err != want {
		t.Errorf("a second agent: %q, want %q", second.Err, want)
	}
	lines.skip()
	lines.await("got 220") // it has not harmed the first
	first.do(order{Detach: true})
	lines.skip()
	lines.await("refused")
	lines.await("refused")
	first.kill()

	third := startRemote(t, env, instance)
	if lost := third.do(order{Adopt: map[string]sandbox.State{"box": state}}).Lost; len(lost) > 0 {
		t.Fatal(lost)
	}
	third.do(order{Claim: []string{}})
	lines.await("got 220")
	third.do(order{Close: true})
	expectNothing(t, instance)
}

// What cannot be adopted is removed and told, and what nobody claims goes without a
// word; both may be created anew.
func TestLostAndUnclaimed(t *testing.T) {
	instance := instanceOf(t)
	env := newWorld(t)
	first := startRemote(t, env, instance)
	names := []string{"dead", "moved", "forged", "forgotten", "later", "fine"}
	states := first.do(order{Create: names}).States
	log := filepath.Join(t.TempDir(), "log")
	for _, name := range names {
		first.do(order{Exec: &remoteCommand{Sandbox: name, Script: "sleep 1000", Log: log}})
	}
	first.kill()

	killInit(t, instance, "dead")
	moved := states["moved"]
	moved.NetnsCookie++
	anchor := filepath.Join(stateRoot, instance, anchors, "forged")
	if err := os.Remove(anchor); err != nil {
		t.Fatal(err)
	}
	forger, err := net.Listen("unixpacket", anchor)
	if err != nil {
		t.Fatal(err)
	}
	defer forger.Close()

	second := startRemote(t, env, instance)
	lost := second.do(order{Adopt: map[string]sandbox.State{
		"dead": states["dead"], "moved": moved, "forged": states["forged"], "fine": states["fine"],
		"never": {CgroupID: 1},
	}}).Lost
	for _, name := range []string{"dead", "moved", "forged", "never"} {
		if lost[name] == "" {
			t.Errorf("%s was adopted", name)
		}
		delete(lost, name)
		expectNoCgroup(t, instance, name)
	}
	if len(lost) > 0 {
		t.Error(lost)
	}
	second.do(order{Claim: []string{"later"}})
	expectNoCgroup(t, instance, "forgotten")
	if lost := second.do(order{Adopt: map[string]sandbox.State{"later": states["later"]}}).Lost; len(lost) > 0 {
		t.Error(lost)
	}
	for _, name := range []string{"dead", "moved", "forged", "forgotten", "never"} {
		second.do(order{Create: []string{name}})
		if got := second.run(name, "echo there"); got != "there\n" {
			t.Errorf("%s: %q", name, got)
		}
	}
	second.do(order{Close: true})
	expectNothing(t, instance)
}

// Hooks that are not all there fence nothing that could be served: the sandboxes go,
// and the start goes on.
func TestIncompleteHooks(t *testing.T) {
	instance := instanceOf(t)
	env := newWorld(t)
	first := startRemote(t, env, instance)
	states := first.do(order{Create: []string{"box"}}).States
	first.kill()
	pins, err := filepath.Glob(filepath.Join(pinRoot, instance, "*", "map_origins"))
	if err != nil || len(pins) != 1 {
		t.Fatalf("pins %v, %v", pins, err)
	}
	if err := os.Remove(pins[0]); err != nil {
		t.Fatal(err)
	}
	second := startRemote(t, env, instance)
	expectNoCgroup(t, instance, "box")
	if lost := second.do(order{Adopt: states}).Lost; lost["box"] == "" {
		t.Error("a sandbox without hooks was adopted")
	}
	second.do(order{Claim: []string{}})
	second.do(order{Create: []string{"box"}})
	if got := second.run("box", "exec 3<>/dev/tcp/allowed.test/25; read -r line <&3; echo $line"); !strings.HasPrefix(got, "220") {
		t.Errorf("a new one: %q", got)
	}
	second.do(order{Close: true})
	expectNothing(t, instance)
}

func TestInstanceNames(t *testing.T) {
	for name, want := range map[string]bool{
		"agent": true, "a-1": true, "": false, "run-1": false, "../x": false, "a/b": false, "lock": false,
		"1a": false, "-a": false, "A": false, strings.Repeat("a", 33): false, "ä": false,
	} {
		if got := isInstanceName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// killInit kills the first process of a sandbox.
func killInit(t *testing.T, instance, name string) {
	t.Helper()
	group := groupOf(t, instance, name)
	defer group.Close()
	procs, err := group.Procs()
	if err != nil || len(procs) < 2 {
		t.Fatalf("processes %v, %v", procs, err)
	}
	var pid int
	if _, err := fmt.Sscan(procs[0], &pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); len(procs) > 0; time.Sleep(time.Millisecond) {
		if procs, err = group.Procs(); err != nil || time.Now().After(deadline) {
			t.Fatalf("processes %v, %v", procs, err)
		}
	}
}

func groupPath(t *testing.T, instance, name string) string {
	t.Helper()
	root, err := cgroup.Find()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, cgroupRoot, instance, name)
}

func groupOf(t *testing.T, instance, name string) *cgroup.Group {
	t.Helper()
	group, err := cgroup.Open(groupPath(t, instance, name))
	if err != nil {
		t.Fatal(err)
	}
	return group
}

func expectNoCgroup(t *testing.T, instance, name string) {
	t.Helper()
	if _, err := os.Lstat(groupPath(t, instance, name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cgroup of %s is left: %v", name, err)
	}
}

// Twenty sandboxes are served within a second of the agent's start.
func TestAdoptMany(t *testing.T) {
	took := adoptMany(t, 20)
	t.Logf("20 sandboxes were served after %v", took.Round(time.Millisecond))
	if took > 5*time.Second { // of a machine that does nothing else: one
		t.Errorf("20 sandboxes were served after %v", took)
	}
}

// adoptMany kills an agent with many sandboxes, and returns how long another one takes
// from its start until all are served.
func adoptMany(t testing.TB, n int) time.Duration {
	t.Helper()
	instance := instanceOf(t)
	env := newWorld(t)
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint("box-", i))
	}
	first := startRemote(t, env, instance)
	created := first.do(order{Create: names})
	t.Logf("%d sandboxes were created in %v", n, created.Took.Round(time.Millisecond))
	first.kill()
	second := startRemote(t, env, instance)
	adopted := second.do(order{Adopt: created.States})
	if len(adopted.Lost) > 0 {
		t.Fatal(adopted.Lost)
	}
	for _, name := range []string{names[0], names[n-1]} {
		if got := second.run(name, "exec 3<>/dev/tcp/allowed.test/25; read -r line <&3; echo $line"); !strings.HasPrefix(got, "220") {
			t.Errorf("%s: %q", name, got)
		}
	}
	second.do(order{Claim: []string{}})
	t.Logf("they were removed in %v", second.do(order{Close: true}).Took.Round(time.Millisecond))
	expectNothing(t, instance)
	return second.took + adopted.Took
}

// BenchmarkAdopt is from the start of an agent until 500 sandboxes are served.
func BenchmarkAdopt(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(float64(adoptMany(b, 500).Milliseconds()), "ms/500")
	}
}

// Adopting and leaving costs nothing that stays: no descriptor, goroutine, process,
// namespace, mount or cgroup, and no entry in the hooks.
func TestAdoptLeavesNothing(t *testing.T) {
	instance := instanceOf(t)
	begin := func() *Agent {
		t.Helper()
		a, err := Start(t.Context(), Config{
			Instance: instance, MaxSandboxes: maxSandboxes, Sink: &tally{count: map[string]int{}},
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := begin()
	sb, err := a.CreateSandbox(t.Context(), SandboxConfig{Name: "box", Engine: emptyPolicy(t)})
	if err != nil {
		t.Fatal(err)
	}
	state := sb.State()
	adopt := func() {
		t.Helper()
		a = begin()
		if _, err := a.AdoptSandbox(t.Context(), SandboxConfig{Name: "box", Engine: emptyPolicy(t)}, state); err != nil {
			t.Fatal(err)
		}
		if err := a.RemoveUnclaimed(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	detach := func() {
		t.Helper()
		if err := a.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	detach()
	adopt()
	entriesBefore := entries(t, a)
	detach()
	before, err := testenv.TakeSnapshot(instance)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		adopt()
		detach()
		// A start that fails leaves what it has found.
		if _, err := Start(t.Context(), Config{Instance: instance, MaxSandboxes: -1}); err == nil {
			t.Fatal("an agent of less than no sandboxes has started")
		}
	}
	leaked, err := before.Settle(5 * time.Second)
	if err != nil || len(leaked) > 0 {
		t.Errorf("left behind: %v\n  %s", err, strings.Join(leaked, "\n  "))
	}
	adopt()
	if diff := cmp.Diff(entriesBefore, entries(t, a)); diff != "" {
		t.Errorf("map entries (-before +after):\n%s", diff)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	expectNothing(t, instance)
}
