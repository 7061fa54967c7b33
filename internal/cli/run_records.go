package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/flow"
)

// remoteRecords brings the records of a run from the agent to the recorder: as they are
// made, and what is left when the sandbox is gone.
type remoteRecords struct {
	client   *api.Client
	recorder *recorder
	sandbox  string
	log      *slog.Logger

	stop   context.CancelFunc // nil before start
	done   chan struct{}
	cursor string // of the last that came; read when done
	lost   uint64
}

func (r *remoteRecords) filter() *ringfencev1.RecordFilter {
	return &ringfencev1.RecordFilter{Sandbox: r.sandbox}
}

// start follows the records of the sandbox, from its first one on.
func (r *remoteRecords) start(parent context.Context) {
	if !r.recorder.wanted() {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	r.stop, r.done = cancel, make(chan struct{})
	go func() {
		defer close(r.done)
		stream, err := r.client.Records.TailRecords(ctx, &ringfencev1.TailRecordsRequest{Filter: r.filter(), Past: maxPast})
		for err == nil {
			var message *ringfencev1.TailRecordsResponse
			if message, err = stream.Recv(); err == nil {
				r.lost += message.GetLost()
				r.take(message.GetRecord())
			}
		}
	}()
}

// finish takes what has not come yet. Call it when no more is made.
func (r *remoteRecords) finish() error {
	if r.stop == nil {
		return nil
	}
	r.stop()
	<-r.done
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	var rest []*ringfencev1.Record
	seen := r.cursor == ""
	request := &ringfencev1.QueryRecordsRequest{Filter: r.filter(), PageSize: listPage}
	for {
		page, err := r.client.Records.QueryRecords(ctx, request)
		if err != nil {
			return fmt.Errorf("read the last records: %w", api.ErrorOf(err))
		}
		for _, record := range page.GetRecords() {
			rest = append(rest, record)
			if record.GetCursor() == r.cursor {
				seen, rest = true, nil
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			break
		}
	}
	if !seen {
		r.log.Warn("records were lost: the agent had no more room for them")
	}
	for _, record := range rest {
		r.take(record)
	}
	if r.lost > 0 {
		// The stream says so of any, and perhaps of other sandboxes'.
		r.log.Info("records were passed over, perhaps of other sandboxes", "number", r.lost)
	}
	return nil
}

// take hands on one record. What was asked of the agent for this run is no act of the
// command's.
func (r *remoteRecords) take(record *ringfencev1.Record) {
	if record == nil {
		return
	}
	r.cursor = record.GetCursor()
	var made remoteRecord
	if err := json.Unmarshal([]byte(record.GetJson()), &made); err != nil {
		r.log.Warn("a record cannot be read", "error", err)
		return
	}
	if made.Mode == flow.ModeAPI.String() {
		return
	}
	r.recorder.takeLine(record.GetJson(), made.record())
}

// remoteRecord is what a summary needs of a record's JSON.
type remoteRecord struct {
	Time      time.Time   `json:"time"`
	Verdict   string      `json:"verdict"`
	Reason    flow.Reason `json:"reason"`
	Mode      string      `json:"mode"`
	Hint      string      `json:"hint"`
	Binary    string      `json:"binary"`
	Ancestors []string    `json:"ancestors"`
	Host      string      `json:"host"`
	Port      uint16      `json:"port"`
	Count     uint64      `json:"count"`
}

// record returns the record as the agent had it, as far as it goes.
func (r *remoteRecord) record() *flow.Record {
	verdict := flow.Deny // also of a word that is not known
	for _, v := range []flow.Verdict{flow.Allow, flow.Audit} {
		if r.Verdict == v.String() {
			verdict = v
		}
	}
	mode := flow.ModeTransparent
	for _, m := range []flow.Mode{flow.ModePolicy, flow.ModeSSH, flow.ModeAPI} {
		if r.Mode == m.String() {
			mode = m
		}
	}
	made := &flow.Record{
		Time: r.Time, Verdict: verdict, Reason: r.Reason, Mode: mode, Hint: raw(r.Hint),
		Binary: raw(r.Binary), Host: raw(r.Host), Port: r.Port, Count: r.Count,
	}
	for _, ancestor := range r.Ancestors {
		made.Ancestors = append(made.Ancestors, raw(ancestor))
	}
	return made
}

// raw undoes event.Escape.
func raw(text string) string {
	if bytes, err := event.Unescape(text); err == nil {
		return bytes
	}
	return text
}
