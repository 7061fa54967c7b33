package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// dialTimeout is how long an agent may take to accept.
const dialTimeout = 3 * time.Second

// Client is a connection to an agent. It is for many calls at a time, and finds an
// agent again that was restarted meanwhile. What its calls fail with, ErrorOf tells.
type Client struct {
	Agent     ringfencev1.AgentClient
	Sandboxes ringfencev1.SandboxesClient
	Policies  ringfencev1.PoliciesClient
	Providers ringfencev1.ProvidersClient
	Records   ringfencev1.RecordsClient

	conn   *grpc.ClientConn
	dialer *dialer
}

// Dial connects to the agent that listens on a socket; empty: DefaultSocket. The
// error is an *Error that says whether there is none, or none for this user.
func Dial(socket string) (*Client, error) {
	if socket == "" {
		socket = DefaultSocket
	}
	first, err := connect(context.Background(), socket)
	if err != nil {
		return nil, err
	}
	dialer := &dialer{socket: socket, first: first}
	conn, err := grpc.NewClient("passthrough:///ringfence",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer.dial), // so gRPC asks for no proxy either
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxAnswer)),
		grpc.WithIdleTimeout(0), // the agent closes idle connections itself
	)
	if err != nil {
		_ = first.Close()
		return nil, fmt.Errorf("connect to agent: %w", err)
	}
	conn.Connect() // now: an agent does not wait long for the first bytes
	return &Client{
		Agent:     ringfencev1.NewAgentClient(conn),
		Sandboxes: ringfencev1.NewSandboxesClient(conn),
		Policies:  ringfencev1.NewPoliciesClient(conn),
		Providers: ringfencev1.NewProvidersClient(conn),
		Records:   ringfencev1.NewRecordsClient(conn),
		conn:      conn,
		dialer:    dialer,
	}, nil
}

// Close ends the connection and the calls on it.
func (c *Client) Close() error {
	err := c.conn.Close()
	if first := c.dialer.take(); first != nil { // it was not even looked at yet
		err = errors.Join(err, first.Close())
	}
	return err
}

// Serving asks grpc.health.v1.Health: nil where the agent serves.
func (c *Client) Serving(ctx context.Context) error {
	answer, err := grpc_health_v1.NewHealthClient(c.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return ErrorOf(err)
	}
	if answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return Unavailable("wait for it: ringfence agent status tells when it does", "the agent is not serving yet, or is stopping")
	}
	return nil
}

// Probe reports whether an agent listens on a socket (empty: DefaultSocket), and
// makes no call. It is false with an *Error where that cannot be told.
func Probe(socket string) (bool, error) {
	if socket == "" {
		socket = DefaultSocket
	}
	conn, err := connect(context.Background(), socket)
	if err != nil {
		if CodeOf(err) == CodeUnavailable {
			return false, nil
		}
		return false, err
	}
	return true, conn.Close()
}

// connect makes a connection, or says what a person can do.
func connect(ctx context.Context, socket string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, Unavailable(hintNoAgent, "the agent is not running (no %s)", socket)
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, Unavailable(hintNoAgent, "the agent is not running (nobody answers on %s)", socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, PermissionDenied(hintPeer, "this user may not connect to %s", socket)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, context.DeadlineExceeded):
		return nil, DeadlineExceeded(hintLog, "the agent does not accept connections on %s", socket)
	}
	return nil, fmt.Errorf("connect to agent: %w", err)
}

// dialer gives gRPC the connection that is there already, and makes others when
// that one has ended.
type dialer struct {
	socket string

	mu    sync.Mutex
	first net.Conn
}

func (d *dialer) dial(ctx context.Context, _ string) (net.Conn, error) {
	if first := d.take(); first != nil {
		return first, nil
	}
	return connect(ctx, d.socket)
}

func (d *dialer) take() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := d.first
	d.first = nil
	return first
}
