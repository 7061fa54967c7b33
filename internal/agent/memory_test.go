package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/sandbox"
)

func newTestMemory(t *testing.T) *memory {
	t.Helper()
	m, err := newMemory()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.file.Close() })
	return m
}

func recalled(t *testing.T, file *os.File) (*memory, *recollection) {
	t.Helper()
	m, r, err := recall(file)
	if err != nil {
		t.Fatal(err)
	}
	return m, r
}

// What was remembered is recalled, also where the writer was killed within a line; and
// what is remembered after that is, too.
func TestMemory(t *testing.T) {
	m := newTestMemory(t)
	if _, r := recalled(t, m.file); len(r.hosts)+len(r.counts) > 0 {
		t.Errorf("an empty memory says %+v", r)
	}
	counts := map[flow.Reason]uint64{flow.ReasonUDP: 1<<64 - 1}
	err := errors.Join(m.addHost("a.example"), m.addHost("b.example"), m.setCounts(counts))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.file.WriteAt([]byte(`{"host":"torn.example","and":"much that is left of it`), m.end); err != nil {
		t.Fatal(err)
	}
	again, _ := recalled(t, m.file)
	if err := again.addHost("c.example"); err != nil {
		t.Fatal(err)
	}
	_, r := recalled(t, m.file)
	want := &recollection{hosts: []string{"a.example", "b.example", "c.example"}, counts: counts}
	if diff := cmp.Diff(want, r, cmp.AllowUnexported(recollection{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMemoryThatSaysNothing(t *testing.T) {
	broken := newTestMemory(t)
	if _, err := broken.file.WriteAt([]byte("no line\n"), broken.end); err != nil {
		t.Fatal(err)
	}
	uncounted := newTestMemory(t)
	if _, err := uncounted.file.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	short := newTestMemory(t)
	if err := short.file.Truncate(10); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]*os.File{
		"none": nil, "broken": broken.file, "uncounted": uncounted.file, "short": short.file,
	} {
		if _, _, err := recall(file); !errors.Is(err, sandbox.ErrLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A memory has a bound, and every reason has room among the counts.
func TestMemoryIsBounded(t *testing.T) {
	m := newTestMemory(t)
	m.end = maxMemory - 100
	if err := m.addHost(strings.Repeat("x", 100)); !errors.Is(err, errMemoryFull) {
		t.Errorf("beyond the bound: %v", err)
	}
	if err := m.addHost("x"); err != nil {
		t.Errorf("up to the bound: %v", err)
	}
	counts := map[flow.Reason]uint64{}
	for i := range 64 {
		counts[flow.Reason(fmt.Sprintf("a_reason_with_a_long_name_%02d", i))] = 1<<64 - 1
	}
	if err := m.setCounts(counts); err != nil {
		t.Errorf("64 reasons: %v", err)
	}
}

// A line of a rejection stands for those that no agent has told.
func TestToldOutlivesItsAgent(t *testing.T) {
	m := newTestMemory(t)
	first := told{keep: m.setCounts}
	if n := first.upTo(flow.ReasonUDP, 7); n != 7 {
		t.Errorf("the first line stands for %d", n)
	}
	_, r := recalled(t, m.file)
	var second told
	second.recall(r.counts)
	if n := second.upTo(flow.ReasonUDP, 7); n != 0 {
		t.Errorf("what was told is told again: %d", n)
	}
	if n := second.upTo(flow.ReasonUDP, 10); n != 3 {
		t.Errorf("what was refused meanwhile: %d", n)
	}
}
