package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Calls at a time of one user, over all connections. Each may hold a message.
const (
	maxCallsUID  = 256
	maxCallsRoot = 4096
)

// calls is what stands before every method of every service: who may call, how
// many at a time, that requests are within their limits, and that whatever comes
// back is an error with a code and a hint.
//
// gRPC's interceptors see a request only after it was decoded, and its errors of
// decoding have no hint; so methods are wrapped where they are registered.
type calls struct {
	log      *slog.Logger
	stopping context.Context // ends every stream, whoever's
	faults   atomic.Uint64
	refused  atomic.Uint64

	mu    sync.Mutex
	count map[uint32]int // under way, by uid
}

// registrar wraps the methods of services as it registers them.
type registrar struct {
	*grpc.Server
	calls *calls
}

// RegisterService implements grpc.ServiceRegistrar.
func (r registrar) RegisterService(service *grpc.ServiceDesc, implementation any) {
	wrapped := *service
	wrapped.Methods = make([]grpc.MethodDesc, len(service.Methods))
	for i, method := range service.Methods {
		method.Handler = r.calls.unary(service.ServiceName+"/"+method.MethodName, method.Handler)
		wrapped.Methods[i] = method
	}
	wrapped.Streams = make([]grpc.StreamDesc, len(service.Streams))
	for i, stream := range service.Streams {
		stream.Handler = r.calls.stream(service.ServiceName+"/"+stream.StreamName, stream.Handler)
		wrapped.Streams[i] = stream
	}
	r.Server.RegisterService(&wrapped, implementation)
}

func (c *calls) unary(name string, handler grpc.MethodHandler) grpc.MethodHandler {
	return func(service any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (answer any, err error) {
		err = c.call(ctx, name, func() error {
			answer, err = handler(service, ctx, func(message any) error { return receive(decode, message) }, nil)
			return err
		})
		if err != nil {
			return nil, err
		}
		return answer, nil
	}
}

func (c *calls) stream(name string, handler grpc.StreamHandler) grpc.StreamHandler {
	return func(service any, stream grpc.ServerStream) error {
		ctx, cancel := context.WithCancelCause(stream.Context())
		defer cancel(nil)
		defer context.AfterFunc(c.stopping, func() { cancel(context.Cause(c.stopping)) })()
		return c.call(ctx, name, func() error {
			return handler(service, &serverStream{ServerStream: stream, ctx: ctx})
		})
	}
}

// unknown answers calls of what is not served.
func (c *calls) unknown(_ any, stream grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(stream)
	return c.call(stream.Context(), name, func() error {
		return Unimplemented(hintOf(CodeUnimplemented), "this agent does not serve %q", cut(strings.TrimPrefix(name, "/"), 256))
	})
}

// call makes one call. Its error is nil or an *Error.
func (c *calls) call(ctx context.Context, name string, run func() error) (err error) {
	peer, ok := PeerOf(ctx)
	if !ok {
		return PermissionDenied(hintPeer, "it is not known who calls")
	}
	if !admitted(ctx) {
		c.refused.Add(1)
		return PermissionDenied(hintPeer, "uid %d may not use the control API", peer.UID)
	}
	if !c.begin(peer.UID) {
		c.refused.Add(1)
		return ResourceExhausted("wait for some of them to end", "uid %d has too many calls under way", peer.UID)
	}
	defer c.end(peer.UID)
	defer func() {
		if problem := recover(); problem != nil {
			err = c.fault(name, fmt.Errorf("panic: %v", problem), "stack", string(debug.Stack()))
		}
	}()
	if err := run(); err != nil {
		return c.toClient(ctx, name, err)
	}
	return nil
}

func (c *calls) begin(uid uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := maxCallsUID
	if uid == 0 {
		most = maxCallsRoot
	}
	if c.count[uid] >= most {
		return false
	}
	c.count[uid]++
	return true
}

func (c *calls) end(uid uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count[uid]--; c.count[uid] == 0 {
		delete(c.count, uid)
	}
}

// toClient makes of a method's error what its client may see.
func (c *calls) toClient(ctx context.Context, name string, err error) error {
	var own *Error
	switch {
	case errors.As(err, &own):
		return own.whole()
	case errors.Is(context.Cause(ctx), errStopping): // whatever it says of its end
		return errStopping
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return ErrorOf(err) // the client has gone, or waits no longer
	}
	if s, ok := status.FromError(err); ok { // gRPC's, such as of a method that is not there
		return ErrorOf(s.Err())
	}
	if errors.Is(err, unix.ENOSPC) { // no fault of the agent's, and the caller can wait
		c.log.Error("a call failed: a disk is full", "method", name, "error", err)
		return ResourceExhausted("make room on the disk of the agent's state directory, and try again", "%v", unix.ENOSPC)
	}
	return c.fault(name, err)
}

// fault logs an error whose words are not for the client, under a number that the
// client gets.
func (c *calls) fault(name string, err error, more ...any) *Error {
	number := c.faults.Add(1)
	c.log.Error("a call failed by a fault of the agent's", append([]any{"number", number, "method", name, "error", err}, more...)...)
	_, method, _ := strings.Cut(name, "/")
	return Internal(hintFault, "fault %d in %s", number, method)
}

// serverStream is a stream whose requests are checked and whose context ends when
// the agent stops.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context // as gRPC has it
}

// Context implements grpc.ServerStream.
func (s *serverStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream. Other than gRPC's it ends with the context,
// so that a stream whose client says nothing ends when the agent stops.
func (s *serverStream) RecvMsg(message any) error { return receive(s.read, message) }

func (s *serverStream) read(into any) error {
	if s.ctx.Err() != nil { // one read may still be waiting
		return context.Cause(s.ctx)
	}
	got := make(chan error, 1)
	go func() { got <- s.ServerStream.RecvMsg(into) }() // ends with the stream at the latest
	select {
	case err := <-got:
		return err
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// receive reads one request and checks it.
func receive(read func(any) error, message any) error {
	into, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("receive %T: not a message", message)
	}
	var wire frame
	if err := read(&wire); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF // bare, as gRPC has it
		}
		return notReceived(err)
	}
	if len(wire.data) > MaxMessage {
		return ResourceExhausted(hintMessage, "message exceeds maximum length (%d > %d)", len(wire.data), MaxMessage)
	}
	if err := proto.Unmarshal(wire.data, into); err != nil {
		return InvalidArgument("send the messages of internal/api/proto; their strings are UTF-8", "the message cannot be read: %v", err)
	}
	return Check(into)
}

const hintMessage = "send less at a time: a message of the API has at most 1 MiB"

// notReceived is why gRPC read no message. It has told the client already, in its
// own words.
func notReceived(err error) error {
	e := ErrorOf(err)
	switch e.Code {
	case CodeCanceled, CodeDeadlineExceeded, CodeUnimplemented, CodeUnavailable:
		return e
	case CodeResourceExhausted:
		return ResourceExhausted(hintMessage, "%s", e.Message)
	}
	return InvalidArgument("a call of one request sends exactly one message", "no message was received: %s", e.Message)
}

// frame is a message as it came: its decoding is ours, so that its errors are.
type frame struct{ data []byte }

// codec is gRPC's for protobuf, and leaves frames as they are.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, into any) error {
	if f, ok := into.(*frame); ok {
		f.data = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, into)
}
