package agent

import (
	"context"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// watchRejections turns what the hooks refused into records.
func (a *Agent) watchRejections(ctx context.Context) {
	if err := a.datapath.Rejections(ctx, a.recordRejection); err != nil {
		a.cfg.Log.Error("rejections are counted, but no longer recorded", "error", err)
	}
}

func (a *Agent) recordRejection(cgroupID uint64, r flow.Rejection) {
	// glibc connects a UDP socket to every address that it sorts. Nothing is sent,
	// so the hooks' count says enough.
	if r.Reason == flow.ReasonUDPConnect {
		return
	}
	record := &flow.Record{
		Time:    time.Now(),
		Verdict: flow.Deny,
		Engine:  flow.EngineKernel,
		Reason:  r.Reason,
		Mode:    flow.ModeKernel,
		PID:     r.PID,
		UID:     r.UID,
		ExecID:  r.Exec.String(),
	}
	if r.Destination.IsValid() {
		record.SetTarget(flow.AddrTarget(r.Destination))
	}
	told := a.told
	if sb := a.sandbox(cgroupID); sb != nil {
		sb.describe(record, r)
		told = sb.told
	}
	// The hooks count all and tell some: the line stands for those since the last.
	// Two CPUs may tell in another order than they counted; a line is never for none.
	record.Count = 1
	if before := told[r.Reason]; r.Count > before {
		record.Count, told[r.Reason] = r.Count-before, r.Count
	}
	a.cfg.Sink.Emit(record)
}

func (a *Agent) sandbox(cgroupID uint64) *Sandbox {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sandboxes[cgroupID]
}

// A connection that was not accepted after originAge never will be: its listener
// is full, or its sandbox's relay has ended.
const (
	originAge   = 5 * time.Minute
	originSweep = time.Minute
)

// expireOrigins removes, now and then, what nobody took.
func (a *Agent) expireOrigins(ctx context.Context) {
	ticker := time.NewTicker(originSweep)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		removed, err := a.datapath.ExpireOrigins(originAge)
		if err != nil {
			a.cfg.Log.Error("old origins are not removed", "error", err)
		}
		if removed > 0 {
			a.cfg.Log.Warn("connections were never accepted", "origins", removed)
		}
	}
}
