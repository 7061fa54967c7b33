package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// serve starts a server, on a socket of its own if it is told none.
func serve(t *testing.T, config ServerConfig) *Server {
	t.Helper()
	if config.Socket == "" {
		config.Socket = filepath.Join(t.TempDir(), "agent.sock")
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	server, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return server
}

func dial(t *testing.T, server *Server) *Client {
	t.Helper()
	client, err := Dial(server.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// statusOf is an Agent that answers GetStatus by a function.
type statusOf struct {
	pb.UnimplementedAgentServer
	answer func(context.Context) (*pb.AgentStatus, error)
}

func (a statusOf) GetStatus(ctx context.Context, _ *pb.GetStatusRequest) (*pb.AgentStatus, error) {
	return a.answer(ctx)
}

// sandboxes are Sandboxes of which tests set the methods that they call.
type sandboxes struct {
	pb.UnimplementedSandboxesServer
	create func(*pb.CreateSandboxRequest) (*pb.Sandbox, error)
	watch  func(grpc.ServerStreamingServer[pb.SandboxEvent]) error
	exec   func(grpc.BidiStreamingServer[pb.ExecRequest, pb.ExecResponse]) error
}

func (s sandboxes) CreateSandbox(_ context.Context, request *pb.CreateSandboxRequest) (*pb.Sandbox, error) {
	return s.create(request)
}

func (s sandboxes) WatchSandboxes(_ *pb.WatchSandboxesRequest, stream grpc.ServerStreamingServer[pb.SandboxEvent]) error {
	return s.watch(stream)
}

func (s sandboxes) Exec(stream grpc.BidiStreamingServer[pb.ExecRequest, pb.ExecResponse]) error {
	return s.exec(stream)
}

// wantError wants an error of this code, with a message that has this in it, and a
// hint, as they come over the wire.
func wantError(t *testing.T, err error, code Code, message string) *Error {
	t.Helper()
	e := ErrorOf(err)
	if e == nil {
		t.Fatalf("no error, want %v %q", code, message)
	}
	if e.Code != code || !strings.Contains(e.Message, message) || e.Hint == "" {
		t.Errorf("error = %v %q (hint %q), want %v %q", e.Code, e.Message, e.Hint, code, message)
	}
	return e
}

// TestErrorsOfCalls follows what methods return to the client.
func TestErrorsOfCalls(t *testing.T) {
	var log bytes.Buffer
	var fail error
	server := serve(t, ServerConfig{
		Log: slog.New(slog.NewTextHandler(&log, nil)),
		Services: Services{Agent: statusOf{answer: func(context.Context) (*pb.AgentStatus, error) {
			if fail == nil {
				panic("on purpose")
			}
			return nil, fail
		}}},
	})
	client := dial(t, server)
	for _, test := range []struct {
		name string
		err  error
		want Error
		log  string // part of what is logged; "" for nothing
	}{
		{"own", NotFound("look", "no %s", "box"), Error{CodeNotFound, "no box", "look"}, ""},
		{"own, wrapped", fmt.Errorf("deep inside: %w", NotFound("look", "no box")), Error{CodeNotFound, "no box", "look"}, ""},
		{"own without a hint", &Error{Code: CodeAborted, Message: "changed"}, Error{CodeAborted, "changed", hintOf(CodeAborted)}, ""},
		{"gRPC's", status.Error(codes.AlreadyExists, "there"), Error{CodeAlreadyExists, "there", hintOf(CodeAlreadyExists)}, ""},
		{"not UTF-8", NotFound("\xff", "\xfe"), Error{CodeNotFound, "\ufffd", "\ufffd"}, ""},
		{"two lines and per cent", NotFound("a\nb", "100%%\n%%"), Error{CodeNotFound, "100%\n%", "a\nb"}, ""},
		{"long", NotFound(letters(9999), "%s", letters(9999)), Error{CodeNotFound, letters(1533) + "…", letters(509) + "…"}, ""},
		{"any other", errors.New("open /secret"), Error{CodeInternal, "fault 1 in GetStatus", hintFault}, `number=1 method=ringfence.v1.Agent/GetStatus error="open /secret"`},
		{"panic", nil, Error{CodeInternal, "fault 2 in GetStatus", hintFault}, `error="panic: on purpose" stack=`},
		{"canceled, but not the call", context.Canceled, Error{CodeInternal, "fault 3 in GetStatus", hintFault}, `error="context canceled"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			fail = test.err
			log.Reset()
			_, err := client.Agent.GetStatus(t.Context(), &pb.GetStatusRequest{})
			if got := ErrorOf(err); got == nil || *got != test.want {
				t.Errorf("error = %+v, want %+v", got, test.want)
			}
			if got := log.String(); !strings.Contains(got, test.log) || test.log == "" && got != "" {
				t.Errorf("log = %q, want %q", got, test.log)
			}
		})
	}
}

// TestPanicInStream has a stream of another client's go on.
func TestPanicInStream(t *testing.T) {
	server := serve(t, ServerConfig{Services: Services{Sandboxes: sandboxes{
		watch: func(grpc.ServerStreamingServer[pb.SandboxEvent]) error { panic("on purpose") },
		exec:  echo,
	}}})
	client := dial(t, server)
	other, err := dial(t, server).Sandboxes.Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	watch, err := client.Sandboxes.WatchSandboxes(t.Context(), &pb.WatchSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = watch.Recv()
	wantError(t, err, CodeInternal, "fault 1 in WatchSandboxes")
	if got := sendStdin(t, other, []byte("on")); string(got) != "on" {
		t.Errorf("the other stream said %q", got)
	}
}

// echo answers stdin by stdout.
func echo(stream grpc.BidiStreamingServer[pb.ExecRequest, pb.ExecResponse]) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.ExecResponse{Message: &pb.ExecResponse_Stdout{Stdout: request.GetStdin()}}); err != nil {
			return err
		}
	}
}

func sendStdin(t *testing.T, stream grpc.BidiStreamingClient[pb.ExecRequest, pb.ExecResponse], data []byte) []byte {
	t.Helper()
	if err := stream.Send(&pb.ExecRequest{Message: &pb.ExecRequest_Stdin{Stdin: data}}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(ErrorOf(err))
	}
	return answer.GetStdout()
}

// TestRequestsAreChecked has wrong requests come back before a method sees them, in
// calls of one request and in streams.
func TestRequestsAreChecked(t *testing.T) {
	server := serve(t, ServerConfig{Services: Services{Sandboxes: sandboxes{
		create: func(request *pb.CreateSandboxRequest) (*pb.Sandbox, error) {
			if request.GetName() != "right" {
				t.Errorf("a method was called with %v", request)
			}
			return &pb.Sandbox{Name: request.GetName()}, nil
		},
		watch: func(grpc.ServerStreamingServer[pb.SandboxEvent]) error {
			t.Error("a method was called")
			return nil
		},
		exec: echo,
	}}})
	client := dial(t, server)
	if answer, err := client.Sandboxes.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Name: "right"}); err != nil || answer.GetName() != "right" {
		t.Errorf("answer = %v, %v", answer, err)
	}
	_, err := client.Sandboxes.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Name: dnsName(254)})
	wantError(t, err, CodeInvalidArgument, "name exceeds maximum length (254 > 253)")

	watch, err := client.Sandboxes.WatchSandboxes(t.Context(), &pb.WatchSandboxesRequest{Name: "A"})
	if err == nil {
		_, err = watch.Recv()
	}
	wantError(t, err, CodeInvalidArgument, "name is no DNS-1123 name")

	exec, err := client.Sandboxes.Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sendStdin(t, exec, []byte("right"))
	if err := exec.Send(&pb.ExecRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err = exec.Recv() // of the second message, not only the first
	wantError(t, err, CodeInvalidArgument, "message is missing")
}

// TestMessageLimit sends a message of the limit, one of a byte more, and one so
// large that it is not even read.
func TestMessageLimit(t *testing.T) {
	server := serve(t, ServerConfig{Services: Services{Sandboxes: sandboxes{exec: echo}}})
	client := dial(t, server)
	const around = 4 // tag and length of stdin in a message of 1 MiB
	send := func(n int) ([]byte, error) {
		stream, err := client.Sandboxes.Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&pb.ExecRequest{Message: &pb.ExecRequest_Stdin{Stdin: make([]byte, n)}}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		return answer.GetStdout(), err
	}
	if got, err := send(1048576 - around); err != nil || len(got) != 1048576-around {
		t.Errorf("%d bytes came back: %v", len(got), err)
	}
	_, err := send(1048576 - around + 1)
	e := wantError(t, err, CodeResourceExhausted, "message exceeds maximum length (1048577 > 1048576)")
	if e.Hint != hintMessage {
		t.Errorf("hint = %q", e.Hint)
	}
	_, err = send(3 << 20)
	wantError(t, err, CodeResourceExhausted, "received message larger than max")
}

// bytesOf is a codec of messages that are bytes already, for a client that sends
// what no client should.
type bytesOf struct{}

func (bytesOf) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (bytesOf) Unmarshal(_ []byte, _ any) error { return nil }
func (bytesOf) Name() string                    { return "proto" }

// TestWrongBytes sends what is no message of the protocol.
func TestWrongBytes(t *testing.T) {
	server := serve(t, ServerConfig{Services: Services{Sandboxes: sandboxes{}}})
	client := dial(t, server)
	for _, test := range []struct{ name, method, message, want string }{
		{"not UTF-8", "CreateSandbox", "\x0a\x02\xff\xfe", "invalid UTF-8"},
		{"no protobuf", "CreateSandbox", "\x0a\xff", "the message cannot be read"},
		{"in a stream", "WatchSandboxes", "\x0a\x02\xff\xfe", "invalid UTF-8"},
		{"unknown field", "CreateSandbox", "\xf8\x01\x01", "fields that this agent does not know"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := client.conn.Invoke(t.Context(), "/ringfence.v1.Sandboxes/"+test.method, []byte(test.message), nil, grpc.ForceCodec(bytesOf{}))
			wantError(t, err, CodeInvalidArgument, test.want)
		})
	}
}

func TestNotServed(t *testing.T) {
	client := dial(t, serve(t, ServerConfig{Services: Services{Sandboxes: sandboxes{}}}))
	_, err := client.Agent.GetStatus(t.Context(), &pb.GetStatusRequest{})
	wantError(t, err, CodeUnimplemented, `this agent does not serve "ringfence.v1.Agent/GetStatus"`)
	_, err = client.Sandboxes.GetSandbox(t.Context(), &pb.GetSandboxRequest{Name: "box"})
	wantError(t, err, CodeUnimplemented, "GetSandbox")
}

func TestHealth(t *testing.T) {
	server := serve(t, ServerConfig{Services: Services{Sandboxes: sandboxes{}}})
	client := dial(t, server)
	wantError(t, client.Serving(t.Context()), CodeUnavailable, "not serving")
	server.SetServing(true)
	if err := client.Serving(t.Context()); err != nil {
		t.Error(err)
	}
	health := grpc_health_v1.NewHealthClient(client.conn)
	answer, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "ringfence.v1.Sandboxes"})
	if err != nil || answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health of a service = %v, %v", answer, err)
	}
	_, err = health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "other"})
	wantError(t, err, CodeNotFound, "unknown service")
}

// TestReflection asks as grpcurl does.
func TestReflection(t *testing.T) {
	client := dial(t, serve(t, ServerConfig{Services: Services{Sandboxes: sandboxes{}}}))
	stream, err := reflectionpb.NewServerReflectionClient(client.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "ringfence.v1.Sandboxes"},
	})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil || len(answer.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("answer = %v, %v", answer, err)
	}
}

// TestShutdown ends streams by themselves and lets other calls finish.
func TestShutdown(t *testing.T) {
	entered, finish := make(chan struct{}), make(chan struct{})
	server := serve(t, ServerConfig{Services: Services{
		Agent: statusOf{answer: func(context.Context) (*pb.AgentStatus, error) {
			entered <- struct{}{}
			<-finish
			return &pb.AgentStatus{State: "done"}, nil
		}},
		Sandboxes: sandboxes{watch: func(stream grpc.ServerStreamingServer[pb.SandboxEvent]) error {
			entered <- struct{}{}
			<-stream.Context().Done()
			return stream.Context().Err()
		}},
	}})
	client := dial(t, server)
	watch, err := client.Sandboxes.WatchSandboxes(t.Context(), &pb.WatchSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	called := make(chan error, 1)
	go func() {
		answer, err := client.Agent.GetStatus(t.Context(), &pb.GetStatusRequest{})
		if err == nil && answer.GetState() != "done" {
			err = errors.New("not the answer")
		}
		called <- err
	}()
	<-entered
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		down <- server.Shutdown(ctx)
	}()
	_, err = watch.Recv()
	wantError(t, err, CodeUnavailable, "the agent is stopping")
	close(finish)
	if err := <-called; err != nil {
		t.Errorf("a call under way ended with %v", ErrorOf(err))
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if there, err := Probe(server.Socket()); there || err != nil {
		t.Errorf("after it, an agent is there: %v, %v", there, err)
	}
}

// TestShutdownOfSilent does not wait for clients that say nothing: in a stream, in a
// handshake, and in a stream of another maker's service.
func TestShutdownOfSilent(t *testing.T) {
	entered := make(chan struct{})
	server := serve(t, ServerConfig{Services: Services{Sandboxes: sandboxes{exec: func(stream grpc.BidiStreamingServer[pb.ExecRequest, pb.ExecResponse]) error {
		close(entered)
		return echo(stream)
	}}}})
	client := dial(t, server)
	exec, err := client.Sandboxes.Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	health, err := grpc_health_v1.NewHealthClient(client.conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := health.Recv(); err != nil {
		t.Fatal(err)
	}
	silent := connectRaw(t, server)
	wait(t, server, func() bool { return len(server.listener.conns) == 2 })
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > handshakeTimeout/2 {
		t.Errorf("shutting down took %v", took)
	}
	_, err = exec.Recv()
	wantError(t, err, CodeUnavailable, "the agent is stopping")
	for err = nil; err == nil; _, err = health.Recv() { // that it is not serving, and the end
	}
	wantError(t, err, CodeUnavailable, "the agent is stopping")
	wantClosed(t, silent)
}

// TestShutdownEnds cuts off what does not end.
func TestShutdownEnds(t *testing.T) {
	entered, finish := make(chan struct{}), make(chan struct{})
	server, err := NewServer(ServerConfig{
		Socket: filepath.Join(t.TempDir(), "agent.sock"),
		Services: Services{Agent: statusOf{answer: func(context.Context) (*pb.AgentStatus, error) {
			close(entered)
			<-finish
			return nil, context.Canceled
		}}},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() {
		if err := server.Serve(); err != nil {
			t.Error(err)
		}
	})
	defer close(finish)
	silent := connectRaw(t, server) // in the middle of its handshake
	client := dial(t, server)
	called := make(chan error, 1)
	go func() {
		_, err := client.Agent.GetStatus(t.Context(), &pb.GetStatusRequest{})
		called <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	begin := time.Now()
	if err := server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want that of the context", err)
	}
	if took := time.Since(begin); took > handshakeTimeout/2 {
		t.Errorf("shutting down took %v", took)
	}
	wantError(t, <-called, CodeUnavailable, "")
	wantClosed(t, silent)
}

// TestNeverServed leaves nothing where a start fails after NewServer.
func TestNeverServed(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	for range 2 {
		server, err := NewServer(ServerConfig{Socket: socket, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if there, err := Probe(socket); there || err != nil {
			t.Errorf("an agent is there: %v, %v", there, err)
		}
	}
}

// What gRPC cannot send is the caller's to change, and not a fault of the agent's.
func TestTextThatIsNotUTF8(t *testing.T) {
	client := dial(t, serve(t, ServerConfig{}))
	_, err := client.Sandboxes.GetSandbox(t.Context(), &pb.GetSandboxRequest{Name: "\xff"})
	if e := ErrorOf(err); e.Code != CodeInvalidArgument || !strings.Contains(e.Hint, "UTF-8") {
		t.Errorf("%v: %s, hint %s", e.Code, e.Message, e.Hint)
	}
}
