package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// A program that was replaced while the agent was away is not the one that was
// trusted. To accept it counts from the answer on, whatever happens to the agent.
func TestServiceTrustOverRestarts(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	s := f.newService()
	client := f.tool(toolC)
	mine := f.copyOf(client, "mine")
	s.create("one", networkPolicy(allowBlock("mail", allowedName, []int{25}, mine)))
	use := func(reason string, taints ...string) {
		t.Helper()
		seen := len(s.records("one"))
		out, errOut, _ := s.exec("one", mine+" "+allowedName+" 25")
		if got := strings.Contains(out, "220 "); got != (reason == "allowed") {
			t.Errorf("output %q %q, want %s", out, errOut, reason)
		}
		var last record
		await(t, "the connection is recorded", func() bool {
			for _, r := range s.records("one")[seen:] {
				if r.Binary == mine && r.Host == allowedName {
					last = r
				}
			}
			return last.Reason != ""
		})
		if last.Reason != reason || !slices.Equal(last.Taints, taints) {
			t.Errorf("%+v, want %s and taints %q", last, reason, taints)
		}
	}
	replace := func(text string) {
		t.Helper()
		next := filepath.Join(f.dir, "next")
		if err := os.WriteFile(next, append(readFile(t, client), text...), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, mine); err != nil {
			t.Fatal(err)
		}
	}
	use("allowed")
	_ = s.stop(syscall.SIGTERM)
	replace("another")
	s.start()
	use("hash_changed", "changed")
	_, err := s.client.Sandboxes.AcceptProgram(t.Context(), &pb.AcceptProgramRequest{Sandbox: "one", Path: mine})
	_ = s.stop(syscall.SIGKILL)
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	s.start()
	use("allowed")
	_ = s.stop(syscall.SIGKILL)
	replace("a third")
	s.start()
	use("hash_changed", "changed")

	// Another sandbox of the name trusts for itself.
	if _, err := s.client.Sandboxes.DeleteSandbox(t.Context(), &pb.DeleteSandboxRequest{Name: "one"}); err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	s.create("one", networkPolicy(allowBlock("mail", allowedName, []int{25}, mine)))
	use("allowed")
}
