package datapath

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What was copied while it changed is made to agree: nothing that is in use is freed,
// nothing stays that nobody uses.
func TestRecordsAreSettled(t *testing.T) {
	id := func(n uint32) agentExecId { return agentExecId{Tgid: n, Time: 1} }
	record := func(n uint32, ancestors ...uint32) agentExecRecord {
		r := agentExecRecord{Id: id(n), Sandbox: 7, Users: 99, Refs: 99, Held: 99, AncestorsLen: uint16(len(ancestors))}
		for i, a := range ancestors {
			r.Ancestors[i] = id(a)
		}
		return r
	}
	long := record(4)
	long.PathLen = uint16(pathInline + 1)
	lost := record(5)
	lost.PathLen = uint16(pathInline + 1) // whose path was not copied
	stray := record(6)
	stray.Sandbox = 8
	r := records{
		states: map[uint64]agentSandboxState{0: {}, 7: {Tasks: 99, Execs: 99, LongPaths: 99, Origins: 99, DnsSlots: 3, ExecsLost: 2}},
		tasks: map[uint32]agentTask{
			1: {Sandbox: 7, Exec: id(1)}, 2: {Sandbox: 7, Exec: id(1)}, 3: {Sandbox: 7}, // a launcher
			4: {Sandbox: 7, Exec: id(5)}, 5: {Sandbox: 7, Exec: id(40)}, 6: {Sandbox: 8, Exec: id(6)},
		},
		execs: map[agentExecId]agentExecRecord{
			id(1): record(1, 2, 3, 41, 4), // the rest of its ancestors cannot be told
			id(2): record(2, 3),           // lives on as an ancestor only, and has let go
			id(3): record(3), id(4): long, id(5): lost, id(6): stray,
			id(9): record(9, 3), // nobody's
		},
		longPaths: map[agentExecId]agentLongPath{id(4): {}, id(1): {}, id(42): {}},
		origins: map[agentOriginKey]agentOrigin{
			{Port: 1}: {Sock: agentSockOrigin{Sandbox: 7, Exec: id(4)}},
			{Port: 2}: {Sock: agentSockOrigin{Sandbox: 7, Exec: id(40)}},
		},
	}
	r.settle()
	type counts struct{ users, refs, held, ancestors uint32 }
	got := map[agentExecId]counts{}
	for id, e := range r.execs {
		got[id] = counts{e.Users, e.Refs, e.Held, uint32(e.AncestorsLen)}
	}
	want := map[agentExecId]counts{id(1): {2, 1, 0, 2}, id(2): {0, 1, 0, 1}, id(3): {0, 1, 0, 0}, id(4): {1, 1, 0, 0}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(counts{})); diff != "" {
		t.Errorf("records: %s", diff)
	}
	s := r.states[7]
	if s.Tasks != 3 || s.Execs != 4 || s.LongPaths != 1 || s.Origins != 1 || s.DnsSlots != 3 || s.ExecsLost != 2 {
		t.Errorf("counters: %+v", s)
	}
	if len(r.tasks) != 3 || len(r.longPaths) != 1 || len(r.origins) != 1 {
		t.Errorf("left: %d tasks, %d long paths, %d origins", len(r.tasks), len(r.longPaths), len(r.origins))
	}
}
