package flow

import "time"

// Record is what is kept of connections and refusals: exactly one for each
// connection, one for several refused names or rejections alike. What people do to a
// sandbox, by SSH and the API, is recorded likewise. The field order is the order in
// which JSON lines show them.
type Record struct {
	Time       time.Time     `json:"time"` // the start
	Sandbox    string        `json:"sandbox"`
	Verdict    Verdict       `json:"verdict"`
	Engine     Engine        `json:"engine"`
	Policy     string        `json:"policy"`
	Reason     Reason        `json:"reason"`
	Detail     string        `json:"detail,omitempty"` // for a person
	Hint       string        `json:"hint,omitempty"`
	Generation uint64        `json:"generation"`
	Mode       Mode          `json:"mode"`
	Binary     string        `json:"binary"` // raw bytes here; escaped by the writer
	PID        uint32        `json:"pid"`
	UID        uint32        `json:"uid"`
	Ancestors  []string      `json:"ancestors"` // paths, nearest first
	Host       string        `json:"host"`
	Port       uint16        `json:"port"`
	Address    string        `json:"address"`        // the address that was dialled, or asked for
	Sent       int64         `json:"bytes_sent"`     // sandbox to upstream
	Received   int64         `json:"bytes_received"` // upstream to sandbox
	Duration   time.Duration `json:"-"`              // written as duration_ms
	ExecID     string        `json:"exec_id"`
	Taints     []string      `json:"taints"`
	SHA256     string        `json:"sha256,omitempty"`  // of the binary, where it was read
	Preload    []string      `json:"preload,omitempty"` // the variables of the taint "preload"
	Script     string        `json:"script,omitempty"`  // what the binary interprets, as it was named
	// The next five say who came in from outside and what for, in ModeSSH and ModeAPI.
	// PID and UID are then those of the program on the host that asked, where the way
	// in tells them; Host and Port are where a connection was forwarded to.
	User    string `json:"user,omitempty"`    // as whom, by the name that was given
	Source  string `json:"source,omitempty"`  // from where: an address, or a socket's path
	Key     string `json:"key,omitempty"`     // the fingerprint of the key or certificate
	Command string `json:"command,omitempty"` // the command line; of a file, what was done with it
	Object  string `json:"object,omitempty"`  // the file, policy or provider that it is about
	// Count is how many alike this record stands for: refused names are gathered,
	// refusals by a hook are sampled.
	Count uint64 `json:"count,omitempty"`
}

// SetIdentity fills the fields that say which program it was. A nil identity
// leaves them empty.
func (r *Record) SetIdentity(id *Identity) {
	if id == nil {
		return
	}
	r.Binary = id.Path
	r.PID = id.Exec.TGID
	r.UID = id.UID
	r.ExecID = id.Exec.String()
	r.Taints = id.Taints.Names()
	r.SHA256, r.Preload, r.Script = id.SHA256, id.Preload.Names(), id.Script
	r.Ancestors = make([]string, len(id.Ancestors))
	for i, a := range id.Ancestors {
		r.Ancestors[i] = a.Path
	}
}

// SetTarget fills the fields that say where to.
func (r *Record) SetTarget(t Target) {
	r.Host, r.Port = t.Host, t.Port
	if t.Addr.IsValid() {
		r.Address = t.Addr.String()
	}
}

// SetDecision fills the fields that say what was decided, and by what.
func (r *Record) SetDecision(d *Decision) {
	r.Verdict, r.Engine, r.Policy = d.Verdict, d.Engine, d.Policy
	r.Reason, r.Hint, r.Generation = d.Reason, d.Hint, d.Generation
}

// SetDenial turns the record into the denial of a later step.
func (r *Record) SetDenial(d *Denial) {
	r.Verdict, r.Engine, r.Reason, r.Detail = Deny, d.Engine, d.Reason, d.Detail
	if d.Addr.IsValid() {
		r.Address = d.Addr.Addr().String()
	}
}
