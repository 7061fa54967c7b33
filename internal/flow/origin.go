package flow

import "net/netip"

// Mode says by which way a connection came to the agent.
type Mode uint8

// The modes. The zero value is none of them.
const (
	ModeUnknown     Mode = iota
	ModeTransparent      // captured by the connect hook
	ModeConnect          // a CONNECT request to the explicit proxy
	ModeForward          // an absolute-form request to the explicit proxy
	ModeDNS              // a question to the sandbox's DNS server
	ModeKernel           // refused by a hook; the agent never saw a connection
	ModePolicy           // no connection at all: a policy was loaded anew
	ModeSSH              // somebody came in by SSH, or tried
	ModeAPI              // somebody asked the control API for a change, or to run something
)

var modeNames = [...]string{"unknown", "transparent", "connect", "forward", "dns", "kernel", "policy", "ssh", "api"}

// String returns the mode's name in records.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return modeNames[ModeUnknown]
}

// Outward reports whether it is a way out of the sandbox, and not something that was
// done to it.
func (m Mode) Outward() bool { return m < ModePolicy }

// MarshalText makes the mode a string in JSON.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Origin is what a hook remembered of one connect: who asked, and for what. The
// accepting side takes it exactly once.
type Origin struct {
	Exec ExecID
	// Destination is what the program asked for, in canonical form (a v4-mapped
	// address is an IPv4 address). For a connect to the explicit proxy it is the
	// proxy's own address.
	Destination netip.AddrPort
	// Proxy is true for a connect to the explicit proxy.
	Proxy bool
	UID   uint32
}

// Rejection is one connect, send, bind or socket that a hook refused.
type Rejection struct {
	Exec        ExecID // zero where the task has no exec record
	PID         uint32 // thread group id in the initial pid namespace
	UID         uint32
	Destination netip.AddrPort // invalid where there is none
	Reason      Reason
	Count       uint64 // rejections of this reason in this sandbox so far
}
