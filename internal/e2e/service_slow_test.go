package e2e

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// A caller that takes a command's output slowly gets all of it, though the command has
// ended long before: of some sizes a part is in the pipe then, and nowhere else.
func TestServiceSlowReader(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	s.create("one", "deny-all")
	var all sync.WaitGroup
	for n := 200_000; n < 340_000; n += 7000 {
		all.Go(func() {
			client, err := api.Dial(s.socket) // connections of their own: they share a window
			if err != nil {
				t.Error(err)
				return
			}
			defer client.Close()
			stream, err := client.Sandboxes.Exec(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			start := &pb.ExecStart{Sandbox: "one", Argv: []string{"head", "-c", strconv.Itoa(n), "/dev/zero"}}
			if err := stream.Send(&pb.ExecRequest{Message: &pb.ExecRequest_Start{Start: start}}); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(4 * time.Second) // longer than what is left behind is waited for
			got := 0
			for {
				m, err := stream.Recv()
				if err != nil {
					t.Error(err)
					return
				}
				got += len(m.GetStdout())
				if m.GetExit() != nil {
					break
				}
			}
			if got != n {
				t.Errorf("%d bytes came, of %d", got, n)
			}
		})
	}
	all.Wait()
}
