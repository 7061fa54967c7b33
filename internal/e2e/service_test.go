package e2e

import (
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// A service's sandbox is fenced as a run's is, and its programs are told apart.
func TestServiceSandbox(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	s := f.newService()
	curl := realPath(t, "curl")
	sb := s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, curl)))
	if sb.GetStatus().GetPhase().String() != "READY" {
		t.Fatalf("created: %v", sb)
	}
	out, _, status := s.exec("one", "curl -sS --max-time 20 https://"+allowedName+"/ -o /dev/null -w '%{http_code}'")
	if status != 0 || out != "200" {
		t.Errorf("allowed: %q, status %d", out, status)
	}
	if _, _, status := s.exec("one", "curl -sS --max-time 20 https://"+deniedName+"/"); status == 0 {
		t.Error("denied host was reached")
	}
	if _, _, status := s.exec("one", "exit 7"); status != 7 {
		t.Errorf("status %d of exit 7", status)
	}
	var allowed, denied bool
	for _, r := range s.records("one") {
		if r.Host == allowedName && r.Verdict == "allow" && r.Binary == curl {
			allowed = true
		}
		if r.Host == deniedName && r.Verdict == "deny" {
			denied = true
		}
	}
	if !allowed || !denied {
		t.Errorf("records: %+v", s.records("one"))
	}
	// Its user has a name, which many programs do not do without.
	if out, _, _ := s.exec("one", "id -un; id -gn; echo ~"); !strings.HasPrefix(out, "sandbox\nsandbox\n/tmp\n") {
		t.Errorf("user: %q", out)
	}
	env, _, _ := s.exec("one", "env")
	for _, want := range []string{"HTTPS_PROXY=", "https_proxy=", "NO_PROXY=", "no_proxy=", "RINGFENCE_SANDBOX=one", "HOME=", "USER=", "SHELL=", "PATH="} {
		if !strings.Contains(env, want) {
			t.Errorf("no %s in the environment:\n%s", want, env)
		}
	}
}
