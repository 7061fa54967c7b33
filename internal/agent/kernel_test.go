package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

type counts []uint64

func (c *counts) Emit(r *flow.Record) { *c = append(*c, r.Count) }

// The hooks count every rejection and tell some of them: added up, the records
// must say as many as there were.
func TestRecordsStandForEveryRejection(t *testing.T) {
	var got counts
	a := &Agent{cfg: Config{Sink: &got}, sandboxes: map[uint64]*Sandbox{}, ended: []uint64{2}}
	// Of a sandbox that has ended: a last line stands for it.
	a.recordRejection(2, flow.Rejection{Reason: flow.ReasonUDP, Count: 1000})
	for _, told := range []struct {
		reason flow.Reason
		soFar  uint64
	}{{flow.ReasonUDP, 1}, {flow.ReasonUDP, 2}, {flow.ReasonSocketType, 1}, {flow.ReasonUDP, 40}, {flow.ReasonUDP, 39}, {flow.ReasonUDPConnect, 7}} {
		a.recordRejection(1, flow.Rejection{Reason: told.reason, Count: told.soFar})
	}
	if diff := cmp.Diff(counts{1, 1, 1, 38}, got); diff != "" {
		t.Error(diff)
	}
}
