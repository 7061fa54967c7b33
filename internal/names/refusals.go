package names

import (
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	// refusalWindow is how long alike refusals are gathered into one record, and
	// so by how much a record may come late.
	refusalWindow = time.Second
	// maxRefusals is how many different ones are kept meanwhile.
	maxRefusals = 256
)

// refusals gathers the records of refused questions: one getaddrinfo asks for
// two types under every domain of a search list, and a broken program asks for
// ever.
type refusals struct {
	sink Sink

	mu      sync.Mutex
	pending map[refusalKey]*flow.Record
	order   []*flow.Record // pending, oldest first
	timer   *time.Timer    // calls flush; nil while nothing is pending
}

type refusalKey struct {
	exec   string
	host   string
	reason flow.Reason
}

// add counts a refusal that happens now. Refusals are alike whose program, reason
// and host (in one case: clients mix it against spoofing) are.
func (r *refusals) add(host string, record flow.Record) {
	key := refusalKey{exec: record.ExecID, host: host, reason: record.Reason}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) >= maxRefusals && r.pending[key] == nil {
		key = refusalKey{} // what is over the bound shares one record
		record.Detail = "and other names, too many to be recorded one by one"
	}
	if known := r.pending[key]; known != nil {
		known.Count++
		return
	}
	if r.timer == nil {
		r.pending = make(map[refusalKey]*flow.Record)
		r.timer = time.AfterFunc(refusalWindow, r.flush)
	}
	record.Time, record.Count = time.Now(), 1
	r.pending[key] = &record
	r.order = append(r.order, &record)
}

// flush hands on what is pending. It holds the lock while it does, so that after
// it nothing is on its way any more.
func (r *refusals) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, record := range r.order {
		r.sink.Emit(record)
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.pending, r.order, r.timer = nil, nil, nil
}
