package api

import (
	"context"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// python has grpc, of the distribution's.
const python = "/usr/bin/python3"

// TestForeignClient calls with gRPC's C core by Python, which shares no line of code
// with the server.
func TestForeignClient(t *testing.T) {
	if err := exec.Command(python, "-c", "import grpc").Run(); err != nil {
		testenv.SkipOn(t, &testenv.Skip{Reason: python + " has no grpc (make deps)"})
	}
	want := &pb.AgentStatus{Version: "1.2", Pid: 42, State: "serving", Sandboxes: 3, Problems: []string{"none — really"}}
	server := serve(t, ServerConfig{Services: Services{
		Agent:     statusOf{answer: func(context.Context) (*pb.AgentStatus, error) { return want, nil }},
		Sandboxes: sandboxes{},
	}})
	server.SetServing(true)
	call := func(method string, request []byte) string { return method + "=" + hex.EncodeToString(request) }
	long, err := proto.Marshal(&pb.GetSandboxRequest{Name: dnsName(254)})
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), python, "testdata/client.py", server.Socket(),
		call("/grpc.health.v1.Health/Check", nil),
		call("/ringfence.v1.Agent/GetStatus", nil),
		call("/ringfence.v1.Sandboxes/GetSandbox", long),
		call("/ringfence.v1.Sandboxes/GetSandbox", []byte("\x0a\x02\xff\xfe")),
	)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 4 {
		t.Fatalf("answers = %q", lines)
	}

	health, status := &grpc_health_v1.HealthCheckResponse{}, &pb.AgentStatus{}
	fromHex(t, strings.TrimPrefix(lines[0], "OK "), health)
	if health.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health = %v", health)
	}
	fromHex(t, strings.TrimPrefix(lines[1], "OK "), status)
	if diff := cmp.Diff(want, status, protocmp.Transform()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	wantForeign(t, lines[2], "INVALID_ARGUMENT 'name exceeds maximum length (254 > 253)'",
		&Error{CodeInvalidArgument, "name exceeds maximum length (254 > 253)", "253 bytes are the most"})
	wantForeign(t, lines[3], "INVALID_ARGUMENT 'the message cannot be read: ", nil)
}

// wantForeign wants an error that begins so, with a hint in its status: this one, or
// any.
func wantForeign(t *testing.T, line, begin string, want *Error) {
	t.Helper()
	if !strings.HasPrefix(line, begin) {
		t.Errorf("answer = %q, want %q", line, begin)
		return
	}
	details := &spb.Status{}
	fromHex(t, line[strings.LastIndexByte(line, ' ')+1:], details)
	got := ErrorOf(status.FromProto(details).Err())
	if want != nil && *got != *want || got.Hint == "" {
		t.Errorf("error = %+v, want %+v", got, want)
	}
}

func fromHex(t *testing.T, text string, into proto.Message) {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatalf("answer = %q: %v", text, err)
	}
	if err := proto.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}
