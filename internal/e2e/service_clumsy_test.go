package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// begin starts a command and returns its stream once it runs, or has ended.
func begin(ctx context.Context, t *testing.T, client *api.Client, start *pb.ExecStart) (pb.Sandboxes_ExecClient, *pb.ExecResponse) {
	t.Helper()
	stream, err := client.Sandboxes.Exec(ctx)
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	if err := stream.Send(&pb.ExecRequest{Message: &pb.ExecRequest_Start{Start: start}}); err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatalf("%q: %v", start.GetArgv(), api.ErrorOf(err))
	}
	return stream, first
}

// endOf reads a stream to the command's end.
func endOf(t *testing.T, stream pb.Sandboxes_ExecClient) (string, *pb.ExecExit) {
	t.Helper()
	var out strings.Builder
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("%v after %q", api.ErrorOf(err), out.String())
		}
		if exit := m.GetExit(); exit != nil {
			return out.String(), exit
		}
		out.Write(m.GetStdout())
	}
}

// How a command ends is told as a shell tells it.
func TestServiceExecEnds(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	s.create("one", "deny-all")
	plain := f.file("plain", "no program", 0o644)
	for program, code := range map[string]int32{"no-such-program": 127, "/no/such/program": 127, plain: 126} {
		_, first := begin(t.Context(), t, s.client, &pb.ExecStart{Sandbox: "one", Argv: []string{program}})
		if exit := first.GetExit(); exit.GetCode() != code || exit.GetError() == "" {
			t.Errorf("%s: %v, want %d", program, first, code)
		}
	}
	for signal, code := range map[string]int32{"TERM": 143, "KILL": 137, "INT": 130, "SIGHUP": 129} {
		stream, _ := begin(t.Context(), t, s.client, &pb.ExecStart{Sandbox: "one", Argv: []string{"/bin/sleep", "1000"}})
		if err := stream.Send(&pb.ExecRequest{Message: &pb.ExecRequest_Signal{Signal: signal}}); err != nil {
			t.Fatal(err)
		}
		if _, exit := endOf(t, stream); exit.GetCode() != code || exit.GetSignal() != strings.TrimPrefix(signal, "SIG") {
			t.Errorf("%s: %v", signal, exit)
		}
	}
	stream, _ := begin(t.Context(), t, s.client, &pb.ExecStart{
		Sandbox: "one", Terminal: true, Size: &pb.TerminalSize{Columns: 80, Rows: 24},
		Argv: []string{"/bin/sh", "-c", `stty size; while [ "$(stty size)" != "50 132" ]; do sleep 0.02; done; stty size; exit 7`},
	})
	if err := stream.Send(&pb.ExecRequest{Message: &pb.ExecRequest_Resize{Resize: &pb.TerminalSize{Columns: 132, Rows: 50}}}); err != nil {
		t.Fatal(err)
	}
	if out, exit := endOf(t, stream); exit.GetCode() != 7 || !strings.HasSuffix(out, "50 132\r\n") {
		t.Errorf("resized: %q, %v", out, exit)
	}
}

// Callers who do not read, or who send to what does not read, cost the agent little,
// and nobody else anything. What they started ends with them.
func TestServiceClumsyClients(t *testing.T) {
	const each = 40
	f := newFixture(t)
	s := f.newService()
	s.create("one", "deny-all")
	s.create("two", "deny-all")
	before := s.status().GetResidentBytes()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan int, each)
	for range each {
		client, err := api.Dial(s.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		begin(ctx, t, client, &pb.ExecStart{Sandbox: "one", Argv: []string{"/bin/cat", "/dev/zero"}}) // and reads no more
		sleeper, _ := begin(ctx, t, client, &pb.ExecStart{Sandbox: "one", Argv: []string{"/bin/sleep", "1000"}})
		go func() {
			n := 0
			for n < 1<<10 && sleeper.Send(&pb.ExecRequest{Message: &pb.ExecRequest_Stdin{Stdin: make([]byte, 1<<20-64)}}) == nil {
				n++ // MiB
			}
			sent <- n
		}()
		if watch, err := client.Sandboxes.WatchSandboxes(ctx, &pb.WatchSandboxesRequest{}); err != nil || watch == nil {
			t.Fatal(err)
		}
		if tail, err := client.Records.TailRecords(ctx, &pb.TailRecordsRequest{}); err != nil || tail == nil {
			t.Fatal(err)
		}
	}
	// Others are served meanwhile, and what they do is told to those who do not listen.
	most := before
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); {
		start := time.Now()
		if out, _, _ := s.exec("two", "echo here"); out != "here\n" {
			t.Errorf("output %q", out)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("a command took %v", took)
		}
		most = max(most, s.status().GetResidentBytes())
	}
	t.Logf("the agent has %d MiB, and had %d MiB", most>>20, before>>20)
	if most > before+each*10<<20 { // of each a few messages of input, and buffers
		t.Errorf("the agent has %d MiB, and had %d MiB", most>>20, before>>20)
	}
	if n := len(s.processes(t, "one")); n < 2*each {
		t.Errorf("%d processes", n)
	}
	cancel()
	total := 0
	for range each {
		total += <-sent
	}
	t.Logf("%d MiB were taken of %d commands that do not read", total, each)
	await(t, "what they started ends", func() bool { return len(s.processes(t, "one")) == 1 })
	s.fewGoroutines(t, 100+4*each) // the connections are open still
}
