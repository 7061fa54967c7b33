package daemon

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/flow"
)

// counts is what was decided for one sandbox since it was made.
type counts struct {
	mu    sync.Mutex
	tally agent.Tally
}

// add counts n decisions more, and has the sandbox keep that for the next agent.
func (c *counts) add(verdict flow.Verdict, n uint64, l *life) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if verdict == flow.Deny {
		c.tally.Denied += n
	} else {
		c.tally.Allowed += n
	}
	if l != nil {
		l.SetTally(c.tally)
	}
}

// recall adds what an agent before has counted.
func (c *counts) recall(before agent.Tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tally.Allowed += before.Allowed
	c.tally.Denied += before.Denied
}

func (c *counts) now() agent.Tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tally
}

// sink is where every record of the service goes.
type sink struct{ d *Daemon }

// Emit implements agent.Sink.
func (s sink) Emit(r *flow.Record) {
	s.d.journal.Emit(r)
	if !r.Mode.Outward() {
		return
	}
	b := s.d.fleet.find(r.Sandbox)
	if b == nil {
		return
	}
	_, l, _ := s.d.fleet.look(b)
	b.counts.add(r.Verdict, max(1, r.Count), l)
}

// recordChange records what somebody did by the API, or tried.
func (d *Daemon) recordChange(ctx context.Context, reason flow.Reason, sandbox, object string, err error) {
	d.record(ctx, &flow.Record{Reason: reason, Sandbox: sandbox, Object: object}, err)
}

// record fills in who asked, and whether it was done.
func (d *Daemon) record(ctx context.Context, r *flow.Record, err error) {
	r.Time, r.Engine, r.Mode, r.Verdict, r.Source = time.Now(), flow.EngineAPI, flow.ModeAPI, flow.Allow, d.cfg.Socket
	if peer, ok := api.PeerOf(ctx); ok {
		r.PID, r.UID = uint32(peer.PID), peer.UID
	}
	if err != nil {
		r.Verdict, r.Detail = flow.Deny, err.Error()
	}
	r.Command, r.Object, r.Detail = clip(r.Command), clip(r.Object), clip(r.Detail)
	d.journal.Emit(r)
}

// maxRecorded bounds what a record has of each thing that a caller has sent: one that is
// larger than an answer of the API's may be would hide all others.
const maxRecorded = 16 << 10

func clip(text string) string {
	if len(text) <= maxRecorded {
		return text
	}
	return text[:maxRecorded] + " …"
}

// recordsService serves ringfence.v1.Records.
type recordsService struct {
	pb.UnimplementedRecordsServer
	*Daemon
}

// QueryRecords returns a page of those that are kept.
func (s recordsService) QueryRecords(_ context.Context, req *pb.QueryRecordsRequest) (*pb.QueryRecordsResponse, error) {
	filter, err := filterOf(req.GetFilter())
	if err != nil {
		return nil, err
	}
	page, err := s.journal.Query(filter, int(req.GetPageSize()), req.GetPageToken())
	if err != nil {
		return nil, badToken()
	}
	// Records hold what others have made long: of such there are fewer in an answer.
	records := api.NewPage[*pb.Record](uint32(len(page.Entries)))
	for _, e := range page.Entries {
		record, err := recordOf(e)
		if err != nil {
			return nil, err
		}
		if !records.Add(record) {
			last := records.Entries[len(records.Entries)-1]
			return &pb.QueryRecordsResponse{Records: records.Entries, NextPageToken: last.GetCursor()}, nil
		}
	}
	return &pb.QueryRecordsResponse{Records: records.Entries, NextPageToken: page.Next}, nil
}

// TailRecords sends records as they are made, until the caller or the agent ends.
func (s recordsService) TailRecords(req *pb.TailRecordsRequest, stream pb.Records_TailRecordsServer) error {
	filter, err := filterOf(req.GetFilter())
	if err != nil {
		return err
	}
	var from event.Cursor
	if after := req.GetAfter(); after != "" {
		if from, err = event.ParseCursor(after); err != nil {
			return api.InvalidArgument("send the cursor of a record that came before", "after: %v", err)
		}
	}
	var past []event.Entry
	if n := int(req.GetPast()); n > 0 {
		past, from = s.journal.Last(filter, n)
	}
	tail, err := s.journal.Tail(filter, from)
	if err != nil {
		return api.ResourceExhausted("end another one that follows", "%v", err)
	}
	defer tail.Close()
	// From here on nothing is missed: a caller that waits for the header knows. It goes
	// before the first message, with which it would else go by itself, and not again.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for _, e := range past {
		if err := send(stream, e); err != nil {
			return err
		}
	}
	for {
		e, err := tail.Next(stream.Context())
		if err != nil {
			return err
		}
		if err := send(stream, e); err != nil {
			return err
		}
	}
}

func send(stream pb.Records_TailRecordsServer, e event.Entry) error {
	var all []*pb.TailRecordsResponse
	if e.Restarted {
		all = append(all, &pb.TailRecordsResponse{Message: &pb.TailRecordsResponse_Restarted{Restarted: true}})
	}
	if e.Lost > 0 {
		all = append(all, &pb.TailRecordsResponse{Message: &pb.TailRecordsResponse_Lost{Lost: e.Lost}})
	}
	record, err := recordOf(e)
	if err != nil {
		return err
	}
	all = append(all, &pb.TailRecordsResponse{Message: &pb.TailRecordsResponse_Record{Record: record}})
	for _, m := range all {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func recordOf(e event.Entry) (*pb.Record, error) {
	line, err := event.AppendJSON(nil, e.Record)
	if err != nil {
		return nil, err
	}
	r := e.Record
	return &pb.Record{
		Cursor: e.Cursor.String(), Time: api.Time(r.Time), Sandbox: r.Sandbox,
		Verdict: r.Verdict.String(), Reason: string(r.Reason), Json: strings.TrimSuffix(string(line), "\n"),
	}, nil
}

// filterOf returns a filter as the journal has it.
func filterOf(f *pb.RecordFilter) (event.Filter, error) {
	filter := event.Filter{Sandbox: f.GetSandbox(), Host: f.GetHost(), Binary: f.GetBinary()}
	if text := f.GetVerdict(); text != "" {
		verdict, ok := verdicts()[text]
		if !ok {
			return filter, api.InvalidArgument("write allow, deny or audit", "verdict %q is none", text)
		}
		filter.Verdicts = []flow.Verdict{verdict}
	}
	if text := f.GetReason(); text != "" {
		filter.Reasons = []flow.Reason{flow.Reason(text)}
	}
	if t := f.GetSince(); t != nil {
		filter.Since = t.AsTime()
	}
	if t := f.GetUntil(); t != nil {
		filter.Until = t.AsTime()
	}
	return filter, nil
}

func verdicts() map[string]flow.Verdict {
	all := map[string]flow.Verdict{}
	for _, v := range []flow.Verdict{flow.Allow, flow.Deny, flow.Audit} {
		all[v.String()] = v
	}
	return all
}

// callerOf names a caller of the API's for records and certificates.
func callerOf(ctx context.Context) string {
	peer, ok := api.PeerOf(ctx)
	if !ok {
		return "unknown"
	}
	return fmt.Sprintf("uid %d", peer.UID)
}
