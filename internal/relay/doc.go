// Package relay takes a connection of a sandbox from accept to its record.
//
// It serves the two listeners of one sandbox. On the capture listener arrive
// connections that a hook redirected; on the proxy listener, requests to the
// explicit proxy. Both go the same way: origin, identity, target, decision,
// dial, bytes. A step that cannot say yes refuses: a captured connection is
// reset, a proxy client gets an answer. Every connection leaves exactly one
// record, when it ends.
//
// Bytes from the upstream are never held, so that protocols in which the server
// speaks first work. Of the bytes from the client only the first are held, while
// they may be a TLS ClientHello: the server name in it, where there is one, must
// be the target's host. What this does not see: a name inside an encrypted
// ClientHello (the outer name is compared), TLS that starts later in the stream
// (STARTTLS), a second hello after a HelloRetryRequest, and a Host header within
// the encryption. Who needs these judged asks for inspection.
//
// Who a program is, what a name stands for, what the policy says and which
// address may be dialled are other packages' business, behind the interfaces
// below. No file is read and nothing is hashed here; only a connection whose
// decision turns on what is in a program's file waits until that is known.
package relay

import (
	"context"
	"net"
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
)

// Origins hands out what a hook remembered of a connect, once.
type Origins interface {
	// Take is called with the address that an accepted connection comes from.
	Take(remote netip.AddrPort) (flow.Origin, error)
}

// Identities knows the programs. It is asked once for each origin that was taken,
// also for one that is refused: that gives back the origin's hold on its exec.
type Identities interface {
	Identify(flow.ExecID) (*flow.Identity, error)
	// Renew returns an identity with what is known of its files now.
	Renew(*flow.Identity) *flow.Identity
	// Await does the same once the files were read, or the context ended.
	Await(context.Context, *flow.Identity) *flow.Identity
}

// Names knows the synthetic addresses of the sandbox.
type Names interface {
	// Contains reports whether the address is one that could be handed out.
	Contains(netip.Addr) bool
	// Host returns the canonical name that a synthetic address stands for.
	Host(netip.Addr) (string, bool)
}

// Decider judges one target for one program. Its answer is shared and not
// changed; nil is a denial.
type Decider interface {
	Decide(*flow.Identity, flow.Target) *flow.Decision
}

// Dialer connects to a target that was allowed; only it looks names up. The
// connection has keepalive on, as net.Dialer has it. An error that is a
// *flow.Denial says what refused the address.
type Dialer interface {
	Dial(context.Context, flow.Target, *flow.Decision) (*net.TCPConn, error)
}

// Sink takes in the records. It may not block.
type Sink interface {
	Emit(*flow.Record)
}
