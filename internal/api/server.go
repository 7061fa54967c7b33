package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// Services are what the API is made of. One that is nil is not served.
//
// A method returns an *Error, or any error for a fault of the agent's: its text
// goes to the log and not to the client. Requests have passed Check before. The
// context of a streaming method ends with Shutdown, that of another with its call.
type Services struct {
	Agent     ringfencev1.AgentServer
	Sandboxes ringfencev1.SandboxesServer
	Policies  ringfencev1.PoliciesServer
	Providers ringfencev1.ProvidersServer
	Records   ringfencev1.RecordsServer
}

// ServerConfig is what a server is made from.
type ServerConfig struct {
	// Socket is where it listens; empty: DefaultSocket. The directory is made where
	// it is missing, and must be one that only root or the agent's user writes to.
	Socket string
	// UIDs and GIDs may make calls besides root and the agent's own user; a group
	// also as a supplementary one. Each of them can do to sandboxes what root can.
	UIDs, GIDs []uint32
	Services   Services
	Log        *slog.Logger
}

// Bounds of a connection and its calls. See also listen.go, and limits.go for the
// fields of requests.
const (
	// MaxMessage is the most that a request may have: a message of a call or, in a
	// stream, each of them.
	MaxMessage = 1 << 20
	// MaxAnswer is the most that an answer may have: what gRPC's clients take unless
	// they are told otherwise. Page keeps lists far below it.
	MaxAnswer = 4 << 20

	// Beyond it a message is not even read. It is more than MaxMessage, so that one
	// that is a little too large is refused with a hint.
	maxReceived = 2 * MaxMessage

	maxStreams       = 128 // calls at a time on one connection
	maxHeader        = 16 << 10
	handshakeTimeout = 5 * time.Second
	idleTimeout      = 10 * time.Minute // of a connection without calls
	minPing          = 10 * time.Second // between pings of a client's
	streamWindow     = 256 << 10        // a stream's bytes that no handler has read yet
)

// Server is the control API on a Unix socket.
type Server struct {
	listener *listener
	lock     *os.File
	grpc     *grpc.Server
	health   *health.Server
	calls    *calls
	stop     context.CancelCauseFunc // of streams
	once     sync.Once
}

// NewServer claims the socket and listens: callers wait until Serve. It reports
// NOT_SERVING until SetServing.
//
// An error is an *Error where a person can do something about it, such as to stop
// the agent that is serving there already.
func NewServer(config ServerConfig) (*Server, error) {
	if config.Socket == "" {
		config.Socket = DefaultSocket
	}
	who := &admission{own: uint32(os.Geteuid()), uids: config.UIDs, gids: config.GIDs}
	socket, lock, err := claimSocket(config.Socket, who)
	if err != nil {
		return nil, err
	}
	streams, stop := context.WithCancelCause(context.Background())
	s := &Server{
		listener: &listener{
			UnixListener: socket,
			who:          who,
			conns:        make(map[*peerConn]struct{}),
			count:        make(map[string]int),
		},
		lock:   lock,
		health: health.NewServer(),
		calls:  &calls{log: config.Log, stopping: streams, count: make(map[uint32]int)},
		stop:   stop,
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(transport{insecure.NewCredentials()}),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxReceived),
		grpc.MaxSendMsgSize(MaxAnswer),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(4*streamWindow),
		// No pings of ours: on a Unix socket a dead client is seen at once, and one that
		// a person has suspended lives.
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.UnknownServiceHandler(s.calls.unknown),
	)
	s.register(&config.Services)
	s.SetServing(false)
	return s, nil
}

// register adds the services, each call of which is made by way of s.calls.
func (s *Server) register(services *Services) {
	to := registrar{s.grpc, s.calls}
	if services.Agent != nil {
		ringfencev1.RegisterAgentServer(to, services.Agent)
	}
	if services.Sandboxes != nil {
		ringfencev1.RegisterSandboxesServer(to, services.Sandboxes)
	}
	if services.Policies != nil {
		ringfencev1.RegisterPoliciesServer(to, services.Policies)
	}
	if services.Providers != nil {
		ringfencev1.RegisterProvidersServer(to, services.Providers)
	}
	if services.Records != nil {
		ringfencev1.RegisterRecordsServer(to, services.Records)
	}
	grpc_health_v1.RegisterHealthServer(to, s.health)
	reflection.Register(to) // grpcurl needs no files then
}

// Socket returns where the server listens.
func (s *Server) Socket() string { return s.listener.Addr().String() }

// SetServing sets what grpc.health.v1.Health answers, for the whole and for each
// service.
func (s *Server) SetServing(serving bool) {
	state := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if serving {
		state = grpc_health_v1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", state)
	for service := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(service, state)
	}
}

// Stats counts what a server has to do, and what it refused.
type Stats struct {
	Connections, Calls int
	// Connections over a bound, and calls over one or of somebody who may not.
	RefusedConnections, RefusedCalls uint64
	// Calls that failed by a fault of the agent's.
	Faults uint64
}

// Stats returns the present counts.
func (s *Server) Stats() Stats {
	stats := Stats{RefusedCalls: s.calls.refused.Load(), Faults: s.calls.faults.Load()}
	s.calls.mu.Lock()
	for _, n := range s.calls.count {
		stats.Calls += n
	}
	s.calls.mu.Unlock()
	s.listener.mu.Lock()
	stats.Connections, stats.RefusedConnections = len(s.listener.conns), s.listener.refused
	s.listener.mu.Unlock()
	return stats
}

// Serve answers calls until Shutdown, and returns nil then.
func (s *Server) Serve() error {
	if err := s.grpc.Serve(s.listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve control API: %w", err)
	}
	return nil
}

// Shutdown stops: no new calls, streams end with UNAVAILABLE, other calls have
// until ctx ends, and are then cut off. The socket is gone afterwards. The error is
// ctx's where something was cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.health.Shutdown()
	s.stop(errStopping)
	// gRPC would wait for those in the middle of a handshake, who may never end it.
	s.listener.closeWhere(func(conn *peerConn) bool { return !conn.greeted.Load() })
	stopped := make(chan struct{})
	go s.graceful(stopped)
	var err error
	select {
	case <-stopped:
	case <-ctx.Done():
		err = fmt.Errorf("stop control API: %w", context.Cause(ctx))
		s.listener.closeWhere(func(*peerConn) bool { return true })
		s.grpc.Stop()
	}
	s.once.Do(func() {
		// Where it never served, gRPC knows nothing of the listener.
		_ = s.listener.UnixListener.Close()
		_ = s.lock.Close()
	})
	return err
}

// graceful waits until calls have ended, however long.
func (s *Server) graceful(stopped chan<- struct{}) {
	defer close(stopped)
	s.grpc.GracefulStop()
}

// errStopping is the cause with which the contexts of streams end. As an error of a
// call it is one with a code already.
var errStopping = Unavailable("call again when it is back; a restart takes about a second", "the agent is stopping")
