package e2e

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// fails checks the code of an error, and that it says what to do.
func fails(t *testing.T, err error, code api.Code) {
	t.Helper()
	e := api.ErrorOf(err)
	if e == nil || e.Code != code || e.Hint == "" {
		t.Errorf("error %v (%+v), want %v and a hint", err, e, code)
	}
}

// A policy is set while connections go on: what it takes away is closed, what does
// not load is told and changes nothing, and each revision is kept with its state.
func TestServicePolicyRevisions(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	s := f.newService()
	open := networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl")))
	shut := networkPolicy(allowBlock("allowed", "elsewhere.test", []int{443}, realPath(t, "curl")))
	s.create("one", open)
	get := "curl -sS --max-time 20 -o /dev/null https://" + allowedName + "/"
	if _, errOut, status := s.exec("one", get); status != 0 {
		t.Fatalf("first policy: %s", errOut)
	}
	set := func(text string, latest uint64) (*pb.PolicyRevision, error) {
		return s.client.Policies.SetPolicy(t.Context(), &pb.SetPolicyRequest{Sandbox: "one", Source: policySource(text), Latest: latest})
	}
	if r, err := set(shut, 1); err != nil || r.GetRevision() != 2 || r.GetState() != pb.PolicyRevision_LOADED {
		t.Fatalf("second policy: %v, %v", r, err)
	}
	if _, _, status := s.exec("one", get); status == 0 {
		t.Error("the second policy is not in force")
	}
	_, err := set("version: 1\nnetwork_policies:\n  bad: {endpoints: []}\n", 0)
	fails(t, err, api.CodeInvalidArgument)
	_, err = set(open, 2)
	fails(t, err, api.CodeAborted)
	sb, err := s.client.Sandboxes.GetSandbox(t.Context(), &pb.GetSandboxRequest{Name: "one"})
	if err != nil || sb.GetStatus().GetPolicyRevision() != 2 || sb.GetStatus().GetPolicyRevisionLatest() != 3 {
		t.Errorf("status: %v, %v", sb.GetStatus(), err)
	}
	list, err := s.client.Policies.ListPolicyRevisions(t.Context(), &pb.ListPolicyRevisionsRequest{Sandbox: "one"})
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, r := range list.GetRevisions() {
		states = append(states, r.GetState().String())
	}
	if got := strings.Join(states, " "); got != "FAILED LOADED SUPERSEDED" {
		t.Errorf("states: %s", got)
	}
	if r := list.GetRevisions()[0]; !strings.Contains(r.GetError(), "endpoints") {
		t.Errorf("error of the failed one: %q", r.GetError())
	}
	old, err := s.client.Policies.GetPolicy(t.Context(), &pb.GetPolicyRequest{Sandbox: "one", Revision: 1})
	if err != nil || string(old.GetSource().GetFiles()[0].GetYaml()) != open {
		t.Errorf("revision 1: %v, %v", old, err)
	}
	_, err = s.client.Policies.GetPolicy(t.Context(), &pb.GetPolicyRequest{Sandbox: "one", Revision: 9})
	fails(t, err, api.CodeNotFound)
	// A file name is no path: the agent reads nothing for who asks it.
	_, err = s.client.Policies.SetPolicy(t.Context(), &pb.SetPolicyRequest{Sandbox: "one", Source: &pb.PolicySource{
		Files: []*pb.PolicyFile{{Name: "/etc/passwd"}},
	}})
	fails(t, err, api.CodeInvalidArgument)
}

// Sandboxes are made, listed by pages, changed, watched and deleted.
func TestServiceSandboxes(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	watch, err := s.client.Sandboxes.WatchSandboxes(t.Context(), &pb.WatchSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetType() != pb.SandboxEvent_SYNCED {
		t.Fatalf("watched first: %v, %v", first, api.ErrorOf(err))
	}
	for _, name := range []string{"a", "b", "c"} {
		s.create(name, "deny-all", func(spec *pb.SandboxSpec) {
			spec.Labels = map[string]string{"odd": map[bool]string{true: "yes", false: "no"}[name != "b"]}
		})
	}
	_, err = s.client.Sandboxes.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Name: "a"})
	fails(t, err, api.CodeAlreadyExists)
	for what, spec := range map[string]*pb.SandboxSpec{
		"template":  {Template: &pb.SandboxTemplate{Image: "debian"}},
		"providers": {Providers: []string{"none"}},
	} {
		if _, err = s.client.Sandboxes.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Spec: spec}); err == nil {
			t.Errorf("%s was taken", what)
		}
		fails(t, err, api.CodeFailedPrecondition)
	}
	for what, spec := range map[string]*pb.SandboxSpec{
		"user":      {User: "no-such-user"},
		"root":      {User: "root"},
		"key":       {SshAuthorizedKeys: []string{"ssh-rsa AAAA"}},
		"log level": {LogLevel: "loud"},
		"control":   {ControlPlane: "nowhere"},
	} {
		t.Log(what)
		_, err = s.client.Sandboxes.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Spec: spec})
		fails(t, err, api.CodeInvalidArgument)
	}
	var names []string
	for token := ""; ; {
		page, err := s.client.Sandboxes.ListSandboxes(t.Context(), &pb.ListSandboxesRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, sb := range page.GetSandboxes() {
			names = append(names, sb.GetName())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "a b c" {
		t.Errorf("pages: %s", got)
	}
	odd, err := s.client.Sandboxes.ListSandboxes(t.Context(), &pb.ListSandboxesRequest{Labels: map[string]string{"odd": "yes"}})
	if err != nil || len(odd.GetSandboxes()) != 2 {
		t.Errorf("by label: %v, %v", odd, err)
	}
	changed, err := s.client.Sandboxes.UpdateSandbox(t.Context(), &pb.UpdateSandboxRequest{
		Name: "b", Fields: []string{"labels", "environment"},
		Spec: &pb.SandboxSpec{Labels: map[string]string{"odd": "yes"}, Environment: map[string]string{"GREETING": "hello"}},
	})
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	if out, _, _ := s.exec("b", "echo $GREETING"); out != "hello\n" {
		t.Errorf("environment: %q", out)
	}
	_, err = s.client.Sandboxes.UpdateSandbox(t.Context(), &pb.UpdateSandboxRequest{Name: "b", Fields: []string{"user"}, Spec: &pb.SandboxSpec{User: "daemon"}})
	fails(t, err, api.CodeInvalidArgument)
	_, err = s.client.Sandboxes.UpdateSandbox(t.Context(), &pb.UpdateSandboxRequest{Name: "b", Fields: []string{"labels"}, Spec: &pb.SandboxSpec{}, Version: changed.GetVersion() + 5})
	fails(t, err, api.CodeAborted)
	if _, err := s.client.Sandboxes.DeleteSandbox(t.Context(), &pb.DeleteSandboxRequest{Name: "c"}); err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	_, err = s.client.Sandboxes.DeleteSandbox(t.Context(), &pb.DeleteSandboxRequest{Name: "c"})
	fails(t, err, api.CodeNotFound)
	if _, err := s.client.Sandboxes.DeleteSandbox(t.Context(), &pb.DeleteSandboxRequest{Name: "c", AllowMissing: true}); err != nil {
		t.Error(api.ErrorOf(err))
	}
	seen := map[string]bool{}
	for !seen["DELETED c"] {
		event, err := watch.Recv()
		if err != nil {
			t.Fatal(api.ErrorOf(err))
		}
		seen[event.GetType().String()+" "+event.GetSandbox().GetName()] = true
	}
	for _, want := range []string{"CREATED a", "CREATED b", "UPDATED b"} {
		if !seen[want] {
			t.Errorf("the watcher missed %q: %v", want, seen)
		}
	}
}

// A provider's credentials go in and never come out, nor do they lie in the state in
// the clear.
func TestServiceProviders(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	const secret = "sk-a-secret-that-is-nobodys"
	made, err := s.client.Providers.CreateProvider(t.Context(), &pb.CreateProviderRequest{Provider: &pb.Provider{
		Name: "claude", Type: "anthropic", Credentials: map[string]string{"api_key": secret}, Config: map[string]string{"model": "m"},
	}})
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	if made.GetCredentials() != nil || strings.Join(made.GetCredentialNames(), " ") != "api_key" {
		t.Errorf("made: %v", made)
	}
	_, err = s.client.Providers.CreateProvider(t.Context(), &pb.CreateProviderRequest{Provider: &pb.Provider{Name: "claude", Type: "anthropic"}})
	fails(t, err, api.CodeAlreadyExists)
	updated, err := s.client.Providers.UpdateProvider(t.Context(), &pb.UpdateProviderRequest{
		Provider: &pb.Provider{Name: "claude", Config: map[string]string{"model": "n"}}, Fields: []string{"config"},
	})
	if err != nil || updated.GetConfig()["model"] != "n" || len(updated.GetCredentialNames()) != 1 {
		t.Errorf("updated: %v, %v", updated, api.ErrorOf(err))
	}
	s.create("one", "deny-all", func(spec *pb.SandboxSpec) { spec.Providers = []string{"claude"} })
	_, err = s.client.Providers.DeleteProvider(t.Context(), &pb.DeleteProviderRequest{Name: "claude"})
	fails(t, err, api.CodeFailedPrecondition)
	if out, _, _ := s.exec("one", "env"); strings.Contains(out, secret) {
		t.Error("the sandbox has the secret in its environment")
	}
	if out := command(t, f.env.Command("/bin/sh", "-c", "grep -rlF "+secret+" "+s.state+" || true")); out != "" {
		t.Errorf("the secret lies in %s", out)
	}
	list, err := s.client.Providers.ListProviders(t.Context(), &pb.ListProvidersRequest{})
	if err != nil || len(list.GetProviders()) != 1 || list.GetProviders()[0].GetCredentials() != nil {
		t.Errorf("list: %v, %v", list, err)
	}
	if strings.Contains(s.log.String(), secret) {
		t.Error("the secret is in the log")
	}
	if _, err := s.client.Sandboxes.DeleteSandbox(t.Context(), &pb.DeleteSandboxRequest{Name: "one"}); err != nil {
		t.Error(err)
	}
	if _, err := s.client.Providers.DeleteProvider(t.Context(), &pb.DeleteProviderRequest{Name: "claude"}); err != nil {
		t.Error(err)
	}
}

// Records are followed while they are made, and asked for afterwards.
func TestServiceRecords(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	s := f.newService()
	s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl"))))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tail, err := s.client.Records.TailRecords(ctx, &pb.TailRecordsRequest{Filter: &pb.RecordFilter{Sandbox: "one", Verdict: "allow", Host: allowedName}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tail.Header(); err != nil { // it follows by now
		t.Fatal(api.ErrorOf(err))
	}
	s.exec("one", "curl -sS --max-time 20 https://"+deniedName+"/; curl -sS --max-time 20 -o /dev/null https://"+allowedName+"/")
	m, err := tail.Recv()
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	if r := m.GetRecord(); r.GetSandbox() != "one" || r.GetVerdict() != "allow" || !strings.Contains(r.GetJson(), allowedName) {
		t.Errorf("followed: %v", m)
	}
	past, err := s.client.Records.TailRecords(ctx, &pb.TailRecordsRequest{Filter: &pb.RecordFilter{Sandbox: "one"}, Past: 10})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := past.Recv(); err != nil || m.GetRecord() == nil {
		t.Errorf("the past: %v, %v", m, err)
	}
	// It goes on from there.
	s.exec("one", "curl -sS --max-time 20 -o /dev/null https://"+allowedName+":4443/")
	for port := 0; port != 4443; {
		m, err := past.Recv()
		if err != nil {
			t.Fatal(api.ErrorOf(err))
		}
		var r record
		if err := json.Unmarshal([]byte(m.GetRecord().GetJson()), &r); err != nil {
			t.Fatal(err)
		}
		port = r.Port
	}
	denied, err := s.client.Records.QueryRecords(ctx, &pb.QueryRecordsRequest{Filter: &pb.RecordFilter{Verdict: "deny", Host: deniedName}})
	if err != nil || len(denied.GetRecords()) == 0 {
		t.Errorf("denied: %v, %v", denied, err)
	}
	_, err = s.client.Records.QueryRecords(ctx, &pb.QueryRecordsRequest{PageToken: "none"})
	fails(t, err, api.CodeInvalidArgument)
	if status := s.status(); status.GetRecords() == 0 {
		t.Errorf("status counts no records: %v", status)
	}
}

// A sandbox cannot be given the agent's own directories, by whatever path.
func TestServiceVisible(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	link := f.dir + "/link"
	if err := os.Symlink(s.run, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/", "/run", s.run, s.state, link, "/proc/self", "/sys/fs/cgroup"} {
		_, err := s.client.Sandboxes.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Spec: &pb.SandboxSpec{Visible: []string{dir}}})
		fails(t, err, api.CodeInvalidArgument)
	}
	_, err := s.client.Sandboxes.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Spec: &pb.SandboxSpec{Workdir: f.dir + "/none"}})
	fails(t, err, api.CodeFailedPrecondition)
}
