package agent

import (
	"context"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// watchRejections turns what the hooks refused into records.
func (a *Agent) watchRejections(ctx context.Context) {
	// Before that it is not known whose they are; the kernel keeps them meanwhile.
	if !a.awaitSettled(ctx) {
		return
	}
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
	record := rejected(r.Reason)
	record.PID, record.UID, record.ExecID = r.PID, r.UID, r.Exec.String()
	if r.Destination.IsValid() {
		record.SetTarget(flow.AddrTarget(r.Destination))
	}
	told := &a.told
	switch sb := a.sandbox(cgroupID); {
	case sb != nil:
		sb.describe(record, r)
		told = &sb.told
	case a.hasEnded(cgroupID):
		return // read after recordUntold
	}
	if record.Count = told.upTo(r.Reason, r.Count); record.Count > 0 {
		a.cfg.Sink.Emit(record)
	}
}

// recordUntold makes the records stand for every rejection of a sandbox whose
// processes are gone: the hooks counted more than they told.
func (sb *Sandbox) recordUntold() {
	stats, err := sb.agent.datapath.Stats(sb.CgroupID())
	if err != nil {
		sb.agent.cfg.Log.Error("rejections are not all recorded", "sandbox", sb.Name(), "error", err)
		return
	}
	delete(stats.Rejected, flow.ReasonUDPConnect)
	for reason, count := range stats.Rejected {
		record := rejected(reason)
		record.Sandbox = sb.Name()
		record.Detail = "those that were counted, and not told one by one"
		if record.Count = sb.told.upTo(reason, count); record.Count > 0 {
			sb.agent.cfg.Sink.Emit(record)
		}
	}
}

// hasEnded tells a sandbox that is no more from a cgroup that never was one.
func (a *Agent) hasEnded(cgroupID uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.ended, cgroupID)
}

func rejected(reason flow.Reason) *flow.Record {
	return &flow.Record{
		Time: time.Now(), Verdict: flow.Deny, Engine: flow.EngineKernel, Reason: reason, Mode: flow.ModeKernel,
	}
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
