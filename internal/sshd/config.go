package sshd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
)

// Errors of this package.
var (
	// ErrNoSandbox is what a Sandboxes says of a name that no sandbox has.
	ErrNoSandbox = errors.New("no such sandbox")
	// ErrClosed is returned by a server that was shut down.
	ErrClosed = errors.New("the SSH server is shut down")
	// ErrBadKey is returned for text that holds no key which can be used.
	ErrBadKey = errors.New("bad key")
	// ErrBadCommand is returned for a command that no shell can be given.
	ErrBadCommand = errors.New("bad command")
)

// Sandboxes knows the sandboxes by name. It is asked by many connections at once.
type Sandboxes interface {
	// Login returns who may log in to a sandbox, or ErrNoSandbox. It is asked for
	// each key that is offered, and once more when the sandbox is there, so that
	// it must not wait for anything.
	Login(ctx context.Context, name string) (*Login, error)
	// Sandbox returns a sandbox whose fence stands. One that is being made is waited
	// for until ctx ends; where there is none, or none will come, the error says so.
	Sandbox(ctx context.Context, name string) (Sandbox, error)
}

// Login is who may log in to a sandbox: who holds one of the keys, or a certificate
// for the sandbox's name by one of the authorities.
type Login struct {
	Keys        []PublicKey
	Authorities []PublicKey
	// Own is an authority whose certificates are not for a name but for Principal, which
	// no other sandbox has, nor a later one of the same name. The zero value is none.
	Own       PublicKey
	Principal string
}

// Sandbox is what a server needs of one.
type Sandbox interface {
	// Exec starts a command inside, as the sandbox's user. The descriptors of the
	// command stay the caller's. The command runs on when ctx ends after the start.
	Exec(ctx context.Context, command Command) (*launch.Process, error)
	// Dial connects from inside the sandbox: by a process in its cgroup and all its
	// namespaces, as its user. The network is "tcp", with localhost or an address of
	// the loopback, or "unix", with a path and no port. launch.ErrNotOwn refuses what
	// is not the sandbox's own, such as the ports of the agent's listeners there.
	Dial(ctx context.Context, network, address string, port uint16) (net.Conn, error)
	// Done is closed when the sandbox begins to end. Its connections end then.
	Done() <-chan struct{}
}

// Sink takes records. Emit must not wait for long.
type Sink interface {
	Emit(*flow.Record)
}

// Config says whom a server serves, and how much.
type Config struct {
	Sandboxes Sandboxes
	// HostKeys are what the server proves itself with: one of a kind. They stay the
	// same for as long as clients are to know it again.
	HostKeys []*Key
	Sink     Sink
	Log      *slog.Logger
	Limits   Limits
}

// Quota bounds what one sandbox, or one source, may have at once.
type Quota struct {
	Conns    int // connections that are logged in
	Sessions int // session channels
	Channels int // channels of every kind
}

// Limits bound a server. A zero field has the value of DefaultLimits.
type Limits struct {
	// Conns is how many connections there are at once, Handshakes how many of them
	// are not logged in, HandshakesPerSource how many of those have one source. A
	// source is an IPv4 address, an IPv6 network of 64 bits, or a user of this host.
	Conns, Handshakes, HandshakesPerSource int
	// PerSandbox and PerSource are what each may have, PerConn what one connection may.
	PerSandbox, PerSource Quota
	ChannelsPerConn       int

	// Failures is how many logins of a source may fail in a row before its connections
	// are closed unheard; each is forgiven after Forgive.
	Failures int
	Forgive  time.Duration
	// Tries is how many keys a connection may offer; as many again may only be asked
	// about. Grace is how long it may take to log in.
	Tries int
	Grace time.Duration
	// Ready is how long a connection waits for its sandbox's fence.
	Ready time.Duration

	// KeepAlive is how often the client is asked whether it is there; after
	// KeepAliveMost times without an answer the connection ends.
	KeepAlive     time.Duration
	KeepAliveMost int
	// Idle ends a connection on whose channels nothing has moved for so long.
	Idle time.Duration
	// Dial is how long a connection into the sandbox may take.
	Dial time.Duration
	// Linger is how long a command may live on that does not heed the hang-up of
	// its channel.
	Linger time.Duration
}

// DefaultLimits are for people and their editors on a node with many sandboxes.
func DefaultLimits() Limits {
	return Limits{
		Conns: 2048, Handshakes: 256, HandshakesPerSource: 64,
		// A channel may hold 2 MiB that nobody reads: x/crypto's window, which is fixed.
		PerSandbox:      Quota{Conns: 128, Sessions: 256, Channels: 256},
		PerSource:       Quota{Conns: 512, Sessions: 1024, Channels: 1024},
		ChannelsPerConn: 128,
		Failures:        20, Forgive: 10 * time.Second,
		Tries: 6, Grace: 30 * time.Second, Ready: 30 * time.Second,
		KeepAlive: 30 * time.Second, KeepAliveMost: 4,
		Idle: 12 * time.Hour,
		Dial: 10 * time.Second, Linger: 10 * time.Second,
	}
}

// withDefaults returns the limits with a value in each field.
func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	for _, n := range []struct{ field, value *int }{
		{&l.Conns, &d.Conns},
		{&l.Handshakes, &d.Handshakes},
		{&l.HandshakesPerSource, &d.HandshakesPerSource},
		{&l.PerSandbox.Conns, &d.PerSandbox.Conns},
		{&l.PerSandbox.Sessions, &d.PerSandbox.Sessions},
		{&l.PerSandbox.Channels, &d.PerSandbox.Channels},
		{&l.PerSource.Conns, &d.PerSource.Conns},
		{&l.PerSource.Sessions, &d.PerSource.Sessions},
		{&l.PerSource.Channels, &d.PerSource.Channels},
		{&l.ChannelsPerConn, &d.ChannelsPerConn},
		{&l.Failures, &d.Failures},
		{&l.Tries, &d.Tries},
		{&l.KeepAliveMost, &d.KeepAliveMost},
	} {
		if *n.field <= 0 {
			*n.field = *n.value
		}
	}
	for _, t := range []struct{ field, value *time.Duration }{
		{&l.Forgive, &d.Forgive},
		{&l.Grace, &d.Grace},
		{&l.Ready, &d.Ready},
		{&l.KeepAlive, &d.KeepAlive},
		{&l.Idle, &d.Idle},
		{&l.Dial, &d.Dial},
		{&l.Linger, &d.Linger},
	} {
		if *t.field <= 0 {
			*t.field = *t.value
		}
	}
	return l
}
