package e2e

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// restartSandboxes is how many live while their agent is killed.
const restartSandboxes = 20

// loop is what runs in each of them: it asks an allowed and a denied host all the
// time, and keeps a count of what came of it. Its process and its curls are made
// before, while and after the agent is away.
const loop = `
ok=0 failed=0 leaked=0
while :; do
	if curl -sS --max-time 5 -o /dev/null https://` + allowedName + `/ 2>/dev/null; then ok=$((ok+1)); else failed=$((failed+1)); fi
	if curl -sS --max-time 5 -o /dev/null https://` + deniedName + `/ 2>/dev/null; then leaked=$((leaked+1)); fi
	echo $ok $failed $leaked > /tmp/count.new && mv /tmp/count.new /tmp/count
	sleep 0.2
done`

// The agent is killed and started again under load: processes go on, nothing that is
// denied is ever reached, and what is allowed is served again within a second.
func TestServiceRestart(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	s := f.newService()
	text := networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl")))
	names := make([]string, restartSandboxes)
	pids := map[string]string{}
	for i := range names {
		names[i] = fmt.Sprintf("s%02d", i)
		s.create(names[i], text)
		s.detach(names[i], loop)
		pids[names[i]], _, _ = s.exec(names[i], "pgrep -o -f 'ok=0 failed'")
	}
	s.awaitCounts(names, 1)
	before := s.identities()

	for _, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(how.String(), func(t *testing.T) {
			was, err := s.client.Sandboxes.GetSandbox(t.Context(), &pb.GetSandboxRequest{Name: names[0]})
			if err != nil || was.GetStatus().GetAllowed() == 0 || was.GetStatus().GetDenied() == 0 {
				t.Errorf("counted before: %v, %v", was.GetStatus(), err)
			}
			_ = s.stop(how)
			begin := time.Now()
			s.start()
			t.Logf("served again after %v", time.Since(begin).Round(time.Millisecond))
			status := s.status()
			if status.GetAdopted() != restartSandboxes || status.GetHooks() != "adopted" || len(status.GetProblems()) > 0 {
				t.Errorf("status: %v\n%s", status, s.log)
			}
			is, err := s.client.Sandboxes.GetSandbox(t.Context(), &pb.GetSandboxRequest{Name: names[0]})
			if err != nil || is.GetStatus().GetAllowed() < was.GetStatus().GetAllowed() || is.GetStatus().GetDenied() < was.GetStatus().GetDenied() {
				t.Errorf("counted before %v, and after %v, %v", was.GetStatus(), is.GetStatus(), err)
			}
			// One attempt right away in each: it is served now, not soon.
			var all sync.WaitGroup
			for _, name := range names {
				all.Go(func() {
					if _, errOut, code, err := s.tryExec(t.Context(), name, "curl -sS --max-time 10 -o /dev/null https://"+allowedName+"/"); err != nil || code != 0 {
						t.Errorf("%s: %v, status %d: %s", name, api.ErrorOf(err), code, errOut)
					}
				})
			}
			all.Wait()
			for _, name := range names {
				if now, _, _ := s.exec(name, "pgrep -o -f 'ok=0 failed'"); now != pids[name] {
					t.Errorf("%s: the loop was process %q and is %q", name, pids[name], now)
				}
			}
			s.awaitCounts(names, s.counts(names)+restartSandboxes)
		})
	}
	if after := s.identities(); after != before {
		t.Errorf("sandboxes were\n%s\nand are\n%s", before, after)
	}
	for _, name := range names {
		for _, r := range s.records(name) {
			if r.Host == deniedName && r.Verdict != "deny" {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
}

// identities tells sandboxes by what only these very ones have.
func (s *service) identities() string {
	s.t.Helper()
	list, err := s.client.Sandboxes.ListSandboxes(s.t.Context(), &pb.ListSandboxesRequest{PageSize: 1000})
	if err != nil {
		s.t.Fatal(api.ErrorOf(err))
	}
	var b strings.Builder
	for _, sb := range list.GetSandboxes() {
		fmt.Fprintln(&b, sb.GetName(), sb.GetId(), sb.GetStatus().GetCgroupId(), sb.GetStatus().GetNetnsCookie(),
			sb.GetStatus().GetUid(), sb.GetStatus().GetPolicyRevision(), sb.GetStatus().GetStartTime().AsTime())
	}
	return b.String()
}

// counts returns how many requests the loops have made that succeeded. None may ever
// have reached what is denied.
func (s *service) counts(names []string) int {
	s.t.Helper()
	sum := 0
	for _, name := range names {
		out, _, _ := s.exec(name, "cat /tmp/count 2>/dev/null || echo 0 0 0")
		var ok, failed, leaked int
		if _, err := fmt.Sscan(out, &ok, &failed, &leaked); err != nil {
			s.t.Fatalf("%s: %q: %v", name, out, err)
		}
		if leaked != 0 {
			s.t.Errorf("%s: %d denied requests arrived", name, leaked)
		}
		sum += ok
	}
	return sum
}

func (s *service) awaitCounts(names []string, want int) {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for s.counts(names) < want {
		if time.Now().After(deadline) {
			s.t.Fatalf("the loops made %d requests, not %d\n%s", s.counts(names), want, s.log)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A policy may be set that names a user whom this host does not have: the sandbox keeps
// its own, says so, and is adopted with it.
func TestServiceRestartKeepsUser(t *testing.T) {
	testenv.Require(t)
	f := newFixture(t)
	s := f.newService()
	s.create("one", networkPolicy("  {}\n"))
	revision, err := s.client.Policies.SetPolicy(t.Context(), &pb.SetPolicyRequest{
		Sandbox: "one", Source: policySource(networkPolicy("  {}\n") + "process: {run_as_user: nobody-of-this-host}\n"),
	})
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	if told := strings.Join(revision.GetWarnings(), "\n"); !strings.Contains(told, "keeps its user") {
		t.Errorf("warnings: %q", told)
	}
	before := s.identities()
	_ = s.stop(syscall.SIGKILL)
	s.start()
	if status := s.status(); status.GetAdopted() != 1 || len(status.GetProblems()) > 0 {
		t.Errorf("status: %v\n%s", status, s.log)
	}
	if after := s.identities(); after != before {
		t.Errorf("sandbox was\n%sand is\n%s", before, after)
	}
	if out, _, _ := s.exec("one", "id -u"); !strings.Contains(before, " "+strings.TrimSpace(out)+" ") {
		t.Errorf("commands run as %q in\n%s", out, before)
	}
}
