package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Code says what kind of error it is. The numbers are gRPC's.
type Code uint32

// The codes in use, and when.
const (
	CodeCanceled           = Code(codes.Canceled)           // the caller has gone
	CodeInvalidArgument    = Code(codes.InvalidArgument)    // the request is wrong whatever the state
	CodeDeadlineExceeded   = Code(codes.DeadlineExceeded)   // it took longer than the caller waits
	CodeNotFound           = Code(codes.NotFound)           // what it names does not exist
	CodeAlreadyExists      = Code(codes.AlreadyExists)      // what it makes exists
	CodePermissionDenied   = Code(codes.PermissionDenied)   // this caller may not
	CodeResourceExhausted  = Code(codes.ResourceExhausted)  // a bound is reached
	CodeFailedPrecondition = Code(codes.FailedPrecondition) // not in this state: change it first
	CodeAborted            = Code(codes.Aborted)            // somebody else changed it meanwhile: read again
	CodeUnimplemented      = Code(codes.Unimplemented)      // this agent cannot do it
	CodeInternal           = Code(codes.Internal)           // a fault of the agent's
	CodeUnavailable        = Code(codes.Unavailable)        // no agent, or not now: try again
)

// String returns the name that the protocol's documents use, such as NOT_FOUND.
func (c Code) String() string {
	var name strings.Builder
	for i, r := range codes.Code(c).String() {
		if i > 0 && r >= 'A' && r <= 'Z' {
			name.WriteByte('_')
		}
		name.WriteRune(r)
	}
	return strings.ToUpper(name.String())
}

// Error is what a call fails with: on the agent's side what a service returns, and
// on the client's what ErrorOf makes of it.
type Error struct {
	Code    Code
	Message string // what was refused, and why
	Hint    string // what to do about it
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Constructors by meaning. The hint comes first, since none may be left out.

// InvalidArgument refuses a request that is wrong whatever the state.
func InvalidArgument(hint, format string, args ...any) *Error {
	return &Error{CodeInvalidArgument, fmt.Sprintf(format, args...), hint}
}

// NotFound is about something that does not exist.
func NotFound(hint, format string, args ...any) *Error {
	return &Error{CodeNotFound, fmt.Sprintf(format, args...), hint}
}

// AlreadyExists is about something that exists and was to be made.
func AlreadyExists(hint, format string, args ...any) *Error {
	return &Error{CodeAlreadyExists, fmt.Sprintf(format, args...), hint}
}

// FailedPrecondition refuses what cannot be done in this state, or by this agent
// as it is configured.
func FailedPrecondition(hint, format string, args ...any) *Error {
	return &Error{CodeFailedPrecondition, fmt.Sprintf(format, args...), hint}
}

// PermissionDenied refuses a caller.
func PermissionDenied(hint, format string, args ...any) *Error {
	return &Error{CodePermissionDenied, fmt.Sprintf(format, args...), hint}
}

// ResourceExhausted tells of a bound that is reached.
func ResourceExhausted(hint, format string, args ...any) *Error {
	return &Error{CodeResourceExhausted, fmt.Sprintf(format, args...), hint}
}

// Unavailable is about now: the same call may succeed later.
func Unavailable(hint, format string, args ...any) *Error {
	return &Error{CodeUnavailable, fmt.Sprintf(format, args...), hint}
}

// Aborted refuses a change of what has changed since the caller saw it.
func Aborted(hint, format string, args ...any) *Error {
	return &Error{CodeAborted, fmt.Sprintf(format, args...), hint}
}

// Unimplemented is about what this agent cannot do.
func Unimplemented(hint, format string, args ...any) *Error {
	return &Error{CodeUnimplemented, fmt.Sprintf(format, args...), hint}
}

// DeadlineExceeded is about what did not come in time.
func DeadlineExceeded(hint, format string, args ...any) *Error {
	return &Error{CodeDeadlineExceeded, fmt.Sprintf(format, args...), hint}
}

// Internal tells a caller of a fault of the agent's, in words for the caller. An
// error of any other type is one too, and its words stay in the log.
func Internal(hint, format string, args ...any) *Error {
	return &Error{CodeInternal, fmt.Sprintf(format, args...), hint}
}

// CodeOf returns the code of an error from either side; 0 for none.
func CodeOf(err error) Code {
	if e := ErrorOf(err); e != nil {
		return e.Code
	}
	return 0
}

// ErrorOf returns the error that a call failed with: of any error one with a code,
// a message and a hint. It returns nil only for nil.
func ErrorOf(err error) *Error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return own.whole()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return (&Error{Code: CodeCanceled, Message: "canceled"}).whole()
	case errors.Is(err, context.DeadlineExceeded):
		return (&Error{Code: CodeDeadlineExceeded, Message: "it took too long"}).whole()
	}
	s, ok := status.FromError(err)
	if !ok {
		return (&Error{Code: CodeInternal, Message: err.Error()}).whole()
	}
	if s.Code() == codes.Internal && strings.HasSuffix(s.Message(), "contains invalid UTF-8") { // not sent at all
		return InvalidArgument("texts of a call are UTF-8; other bytes go by a command's standard input, or printf in the sandbox",
			"a text of the call is not UTF-8")
	}
	e := &Error{Code: Code(s.Code()), Message: s.Message()}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			e.Hint = info.GetMetadata()[hintKey]
		}
	}
	if e.Code == CodeUnavailable && e.Hint == "" { // of the transport, not the agent's word
		e.Message = "the agent cannot be reached: " + e.Message
	}
	return e.whole()
}

// whole returns the error with a hint, whoever forgot it.
func (e *Error) whole() *Error {
	if e.Hint != "" {
		return e
	}
	return &Error{e.Code, e.Message, hintOf(e.Code)}
}

// hintOf is what can be said knowing only the code.
func hintOf(code Code) string {
	switch code {
	case CodeCanceled:
		return "nothing to do where the caller wanted it; what was begun may have been done: look before doing it again"
	case CodeInvalidArgument:
		return "change the request; docs/api.md has the limits of all fields"
	case CodeDeadlineExceeded:
		return "it may still be done: look before doing it again, and wait longer"
	case CodeNotFound:
		return "look at the spelling: the list commands show what there is"
	case CodeAlreadyExists:
		return "choose another name, or delete the one that exists"
	case CodePermissionDenied:
		return hintPeer
	case CodeResourceExhausted:
		return "ask for less at a time, or end what is no longer needed"
	case CodeFailedPrecondition:
		return "look at the present state first, and change it"
	case CodeAborted:
		return "read it again, and make the change on what it is now"
	case CodeUnimplemented:
		return "agent and client may be of different versions: ringfence agent status shows the agent's"
	case CodeUnavailable:
		return hintNoAgent
	}
	return hintLog
}

const (
	hintNoAgent = "sudo systemctl start ringfence, or sudo ringfence agent"
	hintLog     = "the agent's log has more: journalctl -u ringfence"
	hintFault   = "the agent's log has more under this number: journalctl -u ringfence"
)

// How an error travels: as a google.rpc.ErrorInfo beside code and message.
const (
	errorDomain = "ringfence"
	hintKey     = "hint"
)

// Bounds of the texts on the wire. They travel in headers, twice, and the C core of
// gRPC drops an answer with more than 8 KiB of those.
const (
	maxErrorMessage = 1536
	maxErrorHint    = 512
)

// GRPCStatus is how gRPC asks an error for what goes to the client.
func (e *Error) GRPCStatus() *status.Status {
	whole := e.whole()
	s := status.New(codes.Code(whole.Code), cut(whole.Message, maxErrorMessage))
	detailed, err := s.WithDetails(&errdetails.ErrorInfo{
		Reason:   whole.Code.String(),
		Domain:   errorDomain,
		Metadata: map[string]string{hintKey: cut(whole.Hint, maxErrorHint)},
	})
	if err != nil { // never, but a hint is not worth the error
		return s
	}
	return detailed
}

// cut returns text as valid UTF-8 of at most limit bytes.
func cut(text string, limit int) string {
	const mark = "…"
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-len(mark)], "") + mark
}
