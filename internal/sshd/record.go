package sshd

import (
	"fmt"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	// maxLine bounds the command line in a record.
	maxLine = 4096
	// maxName bounds names in messages and records; a sandbox's is no longer.
	maxName = 253
	// refusedAtOnce and refusedEvery bound the records of refused logins: so many, and
	// then one for all that come in such a time.
	refusedAtOnce = 16
	refusedEvery  = 10 * time.Second
)

// emit hands on a record of this connection.
func (c *conn) emit(r *flow.Record) {
	r.Mode, r.Engine, r.Sandbox = flow.ModeSSH, flow.EngineSSH, c.sandbox
	r.User, r.Source, r.Key, r.UID = c.sandbox, c.address, c.who.fingerprint, c.from.uid
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	c.server.cfg.Sink.Emit(r)
}

// recordLogin tells of a login.
func (c *conn) recordLogin() {
	c.emit(&flow.Record{
		Verdict: flow.Allow, Reason: flow.ReasonSSHLogin,
		Detail: fmt.Sprintf("%s, client %q", c.who.how, clip(string(c.ssh.ClientVersion()), maxName)),
	})
}

// refusals gathers refused logins: the first are records of their own, of the rest of
// a while there is one, with their number.
type refusals struct {
	sink Sink

	mu     sync.Mutex
	began  time.Time // of the while
	single int       // records of their own in it
	left   uint64    // refused since then, not told yet
	timer  *time.Timer
}

// add takes in the record of a refused login.
func (r *refusals) add(record *flow.Record) {
	record.Verdict, record.Reason = flow.Deny, flow.ReasonSSHRefused
	record.Mode, record.Engine = flow.ModeSSH, flow.EngineSSH
	r.mu.Lock()
	now := time.Now()
	if now.Sub(r.began) > refusedEvery && r.left == 0 {
		r.began, r.single = now, 0
	}
	if r.single < refusedAtOnce {
		r.single++
		r.mu.Unlock()
		r.sink.Emit(record)
		return
	}
	r.later()
	r.mu.Unlock()
}

// count counts a connection that was closed unheard: there is nothing to tell of it.
func (r *refusals) count() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.later()
}

// later is called with mu held.
func (r *refusals) later() {
	r.left++
	if r.timer == nil {
		r.timer = time.AfterFunc(refusedEvery, r.flush)
	}
}

// flush tells of those that are left.
func (r *refusals) flush() {
	r.mu.Lock()
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	left := r.left
	r.left = 0
	r.mu.Unlock()
	if left == 0 {
		return
	}
	r.sink.Emit(&flow.Record{
		Time: time.Now(), Verdict: flow.Deny, Reason: flow.ReasonSSHRefused,
		Mode: flow.ModeSSH, Engine: flow.EngineSSH,
		Detail: "more logins that were refused, or connections that were closed before one", Count: left,
	})
}
