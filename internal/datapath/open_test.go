package datapath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// reopen opens what is there, to be removed at the end.
func reopen(t testing.TB, cfg Config) (*Datapath, Opening) {
	t.Helper()
	start := time.Now()
	dp, opening, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s in %v, frozen for %v, maps: %v", opening.How, time.Since(start), opening.Frozen, opening.Maps)
	t.Cleanup(func() {
		if err := dp.Remove(); err != nil {
			t.Error(err)
		}
	})
	return dp, opening
}

// An agent is killed; its successor has what it had: sandboxes, counters, programs
// that run, origins that wait, and rejections that nobody has read.
func TestOpenAdopts(t *testing.T) {
	opening := testSuccession(t, succession{})
	if opening.How != Adopted || opening.Recovered || opening.Frozen != 0 {
		t.Errorf("opened: %+v", opening)
	}
}

// succession is from one agent to the next.
type succession struct {
	program   string                        // of the predecessor; "": this one
	change    func(t testing.TB, c *Config) // once it is dead
	noSamples bool                          // it is of another object, whose noSamples nobody can read
}

func testSuccession(t *testing.T, s succession) Opening {
	cfg := newParent(t)
	agent := startAgent(t, s.program, cfg)
	stdin, input := pipe(t)
	udp := "sendto=203.0.113.7:443"
	f := makeSandbox(t, cfg.Parent, started{
		argv: []string{
			self(t), "probe", "tcp=" + dest, "tcp=" + dest, "sendto=203.0.113.53:53", udp, "line",
			"tcp=" + dest, udp, "line", "tcp=" + dest, "sendto=203.0.113.54:53",
		},
		stdin: stdin,
	}, agent.add)
	go echo(f.dns4)
	f.start()
	taken := agent.obey(order{Take: accept(t, f.capture4), Cookie: f.cookie}).Exec
	waiting := accept(t, f.capture4)
	f.waitForSteps(4)
	agent.kill()

	port := f.capture4.Addr().String()
	f.capture4.Close()
	fmt.Fprintln(input) // a connect that nobody hears, and another rejection
	f.waitForSteps(7)

	if s.change != nil {
		s.change(t, &cfg)
	}
	replaced := programIDs(t, cfg)
	dp, opening := reopen(t, cfg)
	f.dp = dp
	if opening.How == Migrated {
		waitFor(t, func() bool { return !anyLoaded(replaced) }, func() any { return "the predecessor's programs are loaded" })
	}
	if opening.Released != 1 || opening.Ended != 0 || opening.NotFrozen {
		t.Errorf("opened: %+v", opening)
	}
	if frozen(t, cfg) {
		t.Error("the sandboxes are still frozen")
	}
	sandboxes, err := dp.Sandboxes()
	if err != nil || len(sandboxes) != 1 || sandboxes[0].CgroupID != f.cgroupID || sandboxes[0].NetnsCookie != f.cookie {
		t.Errorf("sandboxes = %+v, %v", sandboxes, err)
	}
	want := Stats{
		Tasks: 1, Execs: 1, Origins: 1, DNSSlots: 1,
		Rejected: map[flow.Reason]uint64{flow.ReasonUDP: 2},
	}
	if got := f.stats(); !cmp.Equal(got, want) {
		t.Errorf("counters: %s", cmp.Diff(want, got))
	}
	if !s.noSamples {
		if got := f.rejections(2); got[0].Reason != flow.ReasonUDP || got[1].Exec != taken {
			t.Errorf("rejections = %+v", got)
		}
	}
	origin, err := dp.Origins(f.cookie).Take(waiting)
	if err != nil || origin.Exec != taken {
		t.Errorf("origin that waited = %+v, %v; want exec %v", origin, err, taken)
	}
	e, err := dp.ReadExec(taken)
	if err != nil || e.Path != self(t) {
		t.Errorf("record = %+v, %v", e, err)
	}
	f.drop(e)

	f.relisten(port)
	fmt.Fprintln(input)
	after, _ := f.take(f.capture4)
	if after.Exec != taken {
		t.Errorf("exec = %v, before it was %v", after.Exec, taken)
	}
	f.drop(after)
	ask := "203.0.113.53:53"
	if got, want := f.results(), []string{
		"peer " + dest, "peer " + dest, ask, "operation not permitted", "line",
		"connection refused", "operation not permitted", "line", "peer " + dest, "203.0.113.54:53",
	}; !cmp.Equal(got, want) {
		t.Errorf("program saw: %s", cmp.Diff(want, got))
	}
	f.waitForNothing()
	return opening
}

// waitForNothing waits until no process is left, and nothing of what they ran.
func (f *fixture) waitForNothing() {
	f.t.Helper()
	waitFor(f.t, func() bool {
		s := f.stats()
		return s.Tasks+s.Execs+s.LongPaths+s.Origins == 0
	}, func() any { return f.stats() })
}

// programIDs returns the programs of the first generation.
func programIDs(t testing.TB, cfg Config) []ebpf.ProgramID {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(cfg.PinDir, "gen_1", "[hc]*_*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("programs: %v, %v", paths, err)
	}
	var ids []ebpf.ProgramID
	for _, path := range paths {
		program, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := program.Info()
		program.Close()
		id, ok := info.ID()
		if err != nil || !ok {
			t.Fatalf("program %s: %v", path, err)
		}
		ids = append(ids, id)
	}
	return ids
}

func anyLoaded(ids []ebpf.ProgramID) bool {
	return slices.ContainsFunc(ids, func(id ebpf.ProgramID) bool {
		program, err := ebpf.NewProgramFromID(id)
		program.Close()
		return !errors.Is(err, fs.ErrNotExist)
	})
}

func frozen(t testing.TB, cfg Config) bool {
	t.Helper()
	value, err := os.ReadFile(filepath.Join(cfg.Parent, "cgroup.freeze"))
	if err != nil {
		t.Fatal(err)
	}
	return string(value) != "0\n"
}

// accept accepts one connection, which stays open, and takes nothing.
func accept(t testing.TB, l net.Listener) netip.AddrPort {
	t.Helper()
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.RemoteAddr().(*net.TCPAddr).AddrPort()
}

// rejections returns the next n that the hooks told of.
func (f *fixture) rejections(n int) []flow.Rejection {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	defer cancel()
	var got []flow.Rejection
	if err := f.dp.Rejections(ctx, func(id uint64, r flow.Rejection) {
		if got = append(got, r); len(got) == n {
			cancel()
		}
	}); err != nil || len(got) < n {
		f.t.Fatalf("%d rejections of %d: %v", len(got), n, err)
	}
	return got
}

func TestOpenLoadsWhereNothingIs(t *testing.T) {
	cfg := newParent(t)
	if _, opening := reopen(t, cfg); opening.How != Fresh {
		t.Errorf("opened: %+v", opening)
	}
	if dp, err := Load(cfg); err == nil {
		t.Error("Load overwrites pins")
		dp.Close()
	}
	if _, err := os.Stat(filepath.Join(cfg.PinDir, aboutName)); err != nil {
		t.Errorf("Load removes pins of others: %v", err)
	}
}

// What cannot be adopted is an error of its own type, and stays as it is.
func TestOpenRefuses(t *testing.T) {
	other := newParent(t)
	for _, tt := range []struct {
		name  string
		spoil func(cfg *Config) error
		want  error
	}{
		{"killed before it was complete", func(c *Config) error { return os.Remove(filepath.Join(c.PinDir, aboutName)) }, ErrIncomplete},
		{"a map is gone", func(c *Config) error { return os.Remove(filepath.Join(c.PinDir, "gen_1/map_tasks")) }, ErrIncomplete},
		{"a program is gone", func(c *Config) error { return os.Remove(filepath.Join(c.PinDir, "gen_1/call_take_origin")) }, ErrIncomplete},
		{"a hook is gone", func(c *Config) error { return os.Remove(filepath.Join(c.PinDir, "link_connect4")) }, ErrIncomplete},
		{"a hook is detached", func(c *Config) error {
			l, err := link.LoadPinnedLink(filepath.Join(c.PinDir, "link_connect4"), nil)
			return errors.Join(err, l.Detach(), l.Close())
		}, ErrIncomplete},
		{"a hook runs another program", func(c *Config) error {
			l, err := link.LoadPinnedLink(filepath.Join(c.PinDir, "link_post_bind4"), nil)
			program, programErr := ebpf.LoadPinnedProgram(filepath.Join(c.PinDir, "gen_1/hook_post_bind6"), nil)
			return errors.Join(err, programErr, l.Update(program), l.Close(), program.Close())
		}, ErrIncomplete},
		{"another cgroup", func(c *Config) error { c.Parent, c.ParentID = other.Parent, other.ParentID; return nil }, ErrForeign},
		{"something else under the name", func(c *Config) error {
			about := filepath.Join(c.PinDir, aboutName)
			return errors.Join(os.Remove(about), os.Rename(filepath.Join(c.PinDir, "gen_1/map_tasks"), about))
		}, ErrForeign},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newParent(t)
			startAgent(t, "", cfg).kill()
			if err := tt.spoil(&cfg); err != nil {
				t.Fatal(err)
			}
			before := pinned(t, cfg.PinDir)
			dp, _, err := Open(cfg)
			if err == nil {
				t.Fatal("it is adopted", dp.Close())
			}
			var refusal *AdoptError
			if !errors.As(err, &refusal) || !errors.Is(err, tt.want) {
				t.Errorf("error = %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(before, pinned(t, cfg.PinDir)); diff != "" {
				t.Errorf("pins changed: %s", diff)
			}
		})
	}
}

// pinned lists what is below a directory of pins.
func pinned(t testing.TB, dir string) []string {
	t.Helper()
	var paths []string
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return paths
}

// BenchmarkOpen is what the datapath takes of a restart.
func BenchmarkOpen(b *testing.B) {
	cfg := newParent(b)
	startAgent(b, "", cfg).kill()
	var opens []time.Duration
	for b.Loop() {
		start := time.Now()
		dp, _, err := Open(cfg)
		if err != nil {
			b.Fatal(err)
		}
		opens = append(opens, time.Since(start))
		if err := dp.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(median(opens).Microseconds())/1000, "ms/open")
}
