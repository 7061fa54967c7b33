// Package event takes in the records of connections and makes them something to
// read: JSON lines for tools, a summary table for a person, a journal of the last ones
// for who asks.
//
// A sink's Emit never blocks and never fails: what cannot be kept is counted as
// a lost event, so that no disk, pipe or reader holds up a connection. A record
// that was emitted is shared from then on and may not be changed.
//
// Much of what a record holds was chosen by the sandboxed program: paths, hosts,
// what a client sent. Nothing leaves this package for a file or a terminal
// without Escape or Quote. What a record means is decided elsewhere.
package event

import "github.com/ringfence/ringfence/internal/flow"

// Sink takes in records, from any goroutine.
type Sink interface {
	Emit(*flow.Record)
}

// Tee is a sink that hands each record to several, in order.
type Tee []Sink

// Emit hands the record to every sink.
func (t Tee) Emit(r *flow.Record) {
	for _, sink := range t {
		sink.Emit(r)
	}
}
