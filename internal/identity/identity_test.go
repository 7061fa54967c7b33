package identity

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// execs is an exec table in memory that counts what it is asked. The kernel's
// own is tested with real programs in internal/datapath.
type execs struct {
	records map[flow.ExecID]flow.Exec
	reads   int
	drops   int
}

var errGone = errors.New("gone")

func (e *execs) ReadExec(id flow.ExecID) (flow.Exec, error) {
	e.reads++
	record, ok := e.records[id]
	if !ok {
		return flow.Exec{}, errGone
	}
	return record, nil
}

func (e *execs) DropExec(flow.ExecID) error { e.drops++; return nil }

func id(n uint64) flow.ExecID { return flow.ExecID{TGID: 1, Time: n} }

func record(n uint64, path string, ancestors ...flow.ExecID) flow.Exec {
	return flow.Exec{Image: flow.Image{Exec: id(n), Path: path}, UID: 1000, Ancestors: ancestors}
}

func table(t *testing.T, size int, records ...flow.Exec) (*Table, *execs) {
	t.Helper()
	e := &execs{records: map[flow.ExecID]flow.Exec{}}
	for _, r := range records {
		e.records[r.Exec] = r
	}
	hashes, err := NewHashes()
	if err != nil {
		t.Fatal(err)
	}
	tab, err := NewTable(Config{Execs: e, Files: &tree{}, Hashes: hashes, Named: func(string) bool { return false }, Size: size})
	if err != nil {
		t.Fatal(err)
	}
	return tab, e
}

func paths(images []flow.Image) []string {
	out := []string{}
	for _, i := range images {
		out = append(out, i.Path)
	}
	return out
}

func TestIdentify(t *testing.T) {
	tab, e := table(t, 8,
		record(1, "/bin/bash"), record(2, "/bin/sh", id(1)), record(3, "/bin/curl", id(2), id(1)))
	for range 3 {
		got, err := tab.Identify(id(3))
		if err != nil {
			t.Fatal(err)
		}
		if got.Path != "/bin/curl" || got.UID != 1000 {
			t.Errorf("identity = %+v", got)
		}
		if diff := cmp.Diff([]string{"/bin/sh", "/bin/bash"}, paths(got.Ancestors)); diff != "" {
			t.Error(diff)
		}
	}
	if e.reads != 3 || e.drops != 3 {
		t.Errorf("%d reads and %d drops, want 3 reads (once each) and a drop for each origin", e.reads, e.drops)
	}
}

func TestMissingExecIsAnErrorAndStillDropped(t *testing.T) {
	tab, e := table(t, 8)
	if _, err := tab.Identify(id(9)); !errors.Is(err, errGone) {
		t.Errorf("error = %v", err)
	}
	if e.drops != 1 {
		t.Errorf("%d drops", e.drops)
	}
}

func TestMissingAncestorEndsTheAncestry(t *testing.T) {
	tab, _ := table(t, 8, record(3, "/bin/curl", id(2), id(1)), record(1, "/bin/bash"))
	got, err := tab.Identify(id(3))
	if err != nil {
		t.Fatal(err)
	}
	// Bash is not moved up into the place of its missing child.
	if len(got.Ancestors) != 0 {
		t.Errorf("ancestors = %v", paths(got.Ancestors))
	}
}

// Decisions are cached by key: equal for two runs of one program, different as
// soon as anything that a policy can look at differs.
func TestKey(t *testing.T) {
	base := record(3, "/bin/curl", id(1))
	tab, e := table(t, 64, record(1, "/bin/sh"), record(2, "/bin/dash"), base)
	want, err := tab.Identify(id(3))
	if err != nil {
		t.Fatal(err)
	}
	vary := func(name string, same bool, change func(*flow.Exec)) {
		r := base
		r.Exec = id(uint64(len(e.records) + 10))
		change(&r)
		e.records[r.Exec] = r
		got, err := tab.Identify(r.Exec)
		if err != nil {
			t.Fatal(err)
		}
		if (got.Key == want.Key) != same {
			t.Errorf("%s: keys equal = %v, want %v", name, !same, same)
		}
	}
	vary("another run", true, func(*flow.Exec) {})
	vary("path", false, func(r *flow.Exec) { r.Path = "/bin/wget" })
	vary("file", false, func(r *flow.Exec) { r.File.CtimeNsec++ })
	vary("taint", false, func(r *flow.Exec) { r.Taints = flow.TaintMemfd })
	vary("uid", false, func(r *flow.Exec) { r.UID = 1 })
	vary("ancestor", false, func(r *flow.Exec) { r.Ancestors = []flow.ExecID{id(2)} })
	vary("no ancestor", false, func(r *flow.Exec) { r.Ancestors = nil })
}

func TestTableIsBounded(t *testing.T) {
	tab, e := table(t, 4)
	for n := range uint64(100) {
		e.records[id(n)] = record(n, fmt.Sprint("/bin/", n))
		if _, err := tab.Identify(id(n)); err != nil {
			t.Fatal(err)
		}
	}
	if got := tab.identities.len(); got != 4 {
		t.Errorf("%d identities kept", got)
	}
}
