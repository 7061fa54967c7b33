package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/testenv"
)

// tally counts records by sandbox and verdict.
type tally struct {
	mu    sync.Mutex
	count map[string]int
}

func (s *tally) Emit(r *flow.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[r.Sandbox+" "+r.Verdict.String()]++
}

// maxSandboxes is the most that a test has at once.
const maxSandboxes = 8

// startAgent starts an agent that ends with the test.
func startAgent(t *testing.T, sink Sink) *Agent {
	t.Helper()
	testenv.Require(t, "nc")
	a, err := Start(t.Context(), Config{MaxSandboxes: maxSandboxes, Sink: sink, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func emptyPolicy(t *testing.T) *policy.Engine {
	t.Helper()
	p, _, err := policy.Load(policy.Source{Name: "test", Data: []byte("version: 1\nnetwork_policies: {}\n")})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.NewEngine(t.Context(), p, policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

// use makes a sandbox, lets a command fork, ask for a name and connect in it, and
// closes it.
func use(ctx context.Context, a *Agent, engine *policy.Engine, name string) (err error) {
	sb, err := a.CreateSandbox(ctx, SandboxConfig{Name: name, Engine: engine})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sb.Close()) }()
	user, err := launch.ReservedUser(a.Number())
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	// Without input nc reads until the other end closes, be it busybox's or another.
	const script = `nc 192.0.2.9 9; nc unknown.example 9; sleep 1000 & exit 7`
	process, err := sb.Exec(ctx, launch.Command{
		Argv: []string{"/bin/sh", "-c", script}, Dir: "/", UID: user.UID, GID: user.GID,
		Stdio: [3]*os.File{null, null, null},
	})
	if err != nil {
		return err
	}
	status, err := process.Wait(ctx)
	if err == nil && status.Code != 7 {
		err = fmt.Errorf("%s: status %+v", name, status)
	}
	return err
}

// entries counts what is in the pinned maps.
func entries(t *testing.T, a *Agent) map[string]int {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(a.instance.pinDir(), "*", "map_*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("maps %v, %v", paths, err)
	}
	counts := make(map[string]int)
	for _, path := range paths {
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if kind := m.Type(); kind != ebpf.Hash && kind != ebpf.LRUHash {
			continue // no entries come and go
		}
		switch filepath.Base(path) {
		case "map_announced", "map_dns_askers":
			continue // what they forget they forget by themselves
		}
		it := m.Iterate()
		key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
		for it.Next(&key, &value) {
			counts[filepath.Base(path)]++
		}
		if err := it.Err(); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return counts
}

// A thousand sandboxes leave nothing: no descriptor, goroutine, map entry, process,
// namespace, mount or cgroup, and no memory to speak of.
func TestThousandSandboxes(t *testing.T) {
	sandboxes, atOnce := 1000, maxSandboxes
	if testing.Short() {
		sandboxes = 50
	}
	sink := &tally{count: make(map[string]int)}
	a := startAgent(t, sink)
	engine := emptyPolicy(t)
	// What is made once, at first use, is no leak.
	for i := range atOnce {
		if err := use(t.Context(), a, engine, fmt.Sprint("first-", i)); err != nil {
			t.Fatal(err)
		}
	}
	before, err := testenv.TakeSnapshot(a.instance.name())
	if err != nil {
		t.Fatal(err)
	}
	entriesBefore, heapBefore := entries(t, a), heap()

	start := time.Now()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(atOnce)
	for i := range sandboxes {
		group.Go(func() error { return use(ctx, a, engine, fmt.Sprint("sandbox-", i)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("%d sandboxes in %v, %v each", sandboxes, took.Round(time.Millisecond), (took / time.Duration(sandboxes)).Round(time.Microsecond))

	leaked, err := before.Settle(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaked) > 0 {
		t.Errorf("left behind:\n  %s", strings.Join(leaked, "\n  "))
	}
	if diff := cmp.Diff(entriesBefore, entries(t, a)); diff != "" {
		t.Errorf("map entries (-before +after):\n%s", diff)
	}
	if left := a.all(); len(left) > 0 {
		t.Errorf("%d sandboxes are known", len(left))
	}
	if grown := heap() - heapBefore; grown > 4<<20 {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	} else {
		t.Logf("the heap has grown by %d KiB", grown>>10)
	}
	for i := range sandboxes {
		// The denied address; the name is refused by DNS, which has its record too.
		if n := sink.count[fmt.Sprintf("sandbox-%d deny", i)]; n < 2 {
			t.Errorf("sandbox %d has %d records", i, n)
		}
	}
}

// heap returns the bytes that live on the heap.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what only finalizers held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
