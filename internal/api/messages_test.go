package api

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

func TestCodes(t *testing.T) {
	for code, want := range map[Code]string{
		CodeCanceled: "CANCELED", CodeInvalidArgument: "INVALID_ARGUMENT", CodeDeadlineExceeded: "DEADLINE_EXCEEDED",
		CodeNotFound: "NOT_FOUND", CodeAlreadyExists: "ALREADY_EXISTS", CodePermissionDenied: "PERMISSION_DENIED",
		CodeResourceExhausted: "RESOURCE_EXHAUSTED", CodeFailedPrecondition: "FAILED_PRECONDITION", CodeAborted: "ABORTED",
		CodeUnimplemented: "UNIMPLEMENTED", CodeInternal: "INTERNAL", CodeUnavailable: "UNAVAILABLE",
	} {
		if got := code.String(); got != want {
			t.Errorf("%d is %q, want %q", code, got, want)
		}
		if hintOf(code) == "" {
			t.Errorf("%v has no hint", code)
		}
	}
}

func TestErrorOf(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want *Error
	}{
		{"none", nil, nil},
		{"own", fmt.Errorf("x: %w", NotFound("h", "m")), &Error{CodeNotFound, "m", "h"}},
		{"over the wire", status.Convert(Aborted("h", "m")).Err(), &Error{CodeAborted, "m", "h"}},
		{"of the transport", status.Error(codes.Unavailable, "EOF"), &Error{CodeUnavailable, "the agent cannot be reached: EOF", hintNoAgent}},
		{"unavailable by its own word", status.Convert(Unavailable("h", "m")).Err(), &Error{CodeUnavailable, "m", "h"}},
		{"canceled", context.Canceled, &Error{CodeCanceled, "canceled", hintOf(CodeCanceled)}},
		{"too late", fmt.Errorf("x: %w", context.DeadlineExceeded), &Error{CodeDeadlineExceeded, "it took too long", hintOf(CodeDeadlineExceeded)}},
		{"any", errors.New("x"), &Error{CodeInternal, "x", hintLog}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, ErrorOf(test.err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
	if code := CodeOf(nil); code != 0 {
		t.Errorf("code of nil = %v", code)
	}
}

func TestEncode(t *testing.T) {
	spec := &pb.SandboxSpec{Labels: entries(50), User: "me"}
	data, err := Encode(spec)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if again, err := Encode(Clone(spec)); err != nil || string(again) != string(data) {
			t.Fatalf("other bytes of the same message: %v", err)
		}
	}
	read := &pb.SandboxSpec{}
	if err := Decode(data, read); err != nil || !Equal(spec, read) {
		t.Errorf("read %v, %v", read, err)
	}
	if err := Decode([]byte{0x0a, 0xff}, read); err == nil {
		t.Error("bytes of no message were read")
	}
	read.User = "other"
	if Equal(spec, read) {
		t.Error("two that differ are equal")
	}
}

func TestJSON(t *testing.T) {
	message := &pb.TerminalSize{Columns: 80}
	for range 20 { // protojson varies its spaces from build to build, not from call to call
		got, err := JSON(message, false)
		if err != nil || string(got) != "{\n  \"columns\": 80\n}" {
			t.Fatalf("JSON = %s, %v", got, err)
		}
	}
	if got, err := JSON(message, true); err != nil || string(got) != "{\n  \"columns\": 80,\n  \"rows\": 0\n}" {
		t.Errorf("JSON with zeros = %s, %v", got, err)
	}
}

func TestTimes(t *testing.T) {
	if Time(time.Time{}) != nil || Duration(0) != nil {
		t.Error("zero is set")
	}
	now := time.Now()
	if got := Time(now); !got.AsTime().Equal(now) {
		t.Errorf("time = %v, want %v", got.AsTime(), now)
	}
	if got := Duration(time.Minute); got.AsDuration() != time.Minute {
		t.Errorf("duration = %v", got.AsDuration())
	}
}

func TestPage(t *testing.T) {
	fill := func(size uint32, entry *pb.Sandbox) int {
		page := NewPage[*pb.Sandbox](size)
		for page.Add(entry) {
		}
		if answer := (&pb.ListSandboxesResponse{Sandboxes: page.Entries}); len(page.Entries) > 1 && proto.Size(answer) > MaxMessage {
			t.Errorf("a page of %d bytes", proto.Size(answer))
		}
		return len(page.Entries)
	}
	of := func(n int) *pb.Sandbox { return &pb.Sandbox{Name: letters(n)} }
	for _, test := range []struct {
		name  string
		size  uint32
		entry *pb.Sandbox
		want  int
	}{
		{"as asked", 7, of(10), 7},
		{"not asked", 0, of(10), DefaultPage},
		{"all", MaxPage, of(10), 1000},
		{"beyond", 5000, of(10), 1000},
		{"by bytes", MaxPage, of(10000), 104},
		{"one that is large", MaxPage, of(2 << 20), 1},
	} {
		if got := fill(test.size, test.entry); got != test.want {
			t.Errorf("%s: %d entries, want %d", test.name, got, test.want)
		}
	}
}
