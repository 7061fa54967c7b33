package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

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
