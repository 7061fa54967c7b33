package cli

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// double is an agent whose sandboxes are entries of a map: what the commands say to
// one, and make of its answers, is tried on it. It is served by the real API, with
// its limits and its errors. Commands run on this host, without a fence.
type double struct {
	ringfencev1.UnimplementedAgentServer
	ringfencev1.UnimplementedSandboxesServer
	ringfencev1.UnimplementedPoliciesServer
	ringfencev1.UnimplementedProvidersServer
	ringfencev1.UnimplementedRecordsServer

	ssh *sshDouble

	mu        sync.Mutex
	state     string
	sandboxes map[string]*ringfencev1.Sandbox
	revisions map[string][]*ringfencev1.PolicyRevision // the newest first
	providers map[string]*ringfencev1.Provider
	secrets   map[string]map[string]string
	accepted  []string
	conflicts int // so many updates are refused
	records   []*ringfencev1.Record
	lost      uint64
	restarts  int
	changes   chan *ringfencev1.SandboxEvent
}

// doublePage is small, so that lists have several pages.
const doublePage = 2

// startDouble serves a double at dir/run/agent.sock.
func startDouble(dir string) (d *double, socket string, stop func(), err error) {
	d = &double{
		state:     "serving",
		sandboxes: make(map[string]*ringfencev1.Sandbox),
		revisions: make(map[string][]*ringfencev1.PolicyRevision),
		providers: make(map[string]*ringfencev1.Provider),
		secrets:   make(map[string]map[string]string),
		changes:   make(chan *ringfencev1.SandboxEvent, 16),
	}
	run := filepath.Join(dir, "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		return nil, "", nil, err
	}
	socket = filepath.Join(run, "agent.sock")
	server, err := api.NewServer(api.ServerConfig{
		Socket:   socket,
		Services: api.Services{Agent: d, Sandboxes: d, Policies: d, Providers: d, Records: d},
		Log:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, "", nil, err
	}
	server.SetServing(true)
	if d.ssh, err = startSSHDouble(filepath.Join(run, "ssh.sock")); err != nil {
		return nil, "", nil, err
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve() }()
	return d, socket, func() {
		d.ssh.stop()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = server.Shutdown(ctx)
		<-done
	}, nil
}

// newDouble is a double for one test.
func newDouble(t *testing.T) (*double, Env) {
	t.Helper()
	dir, err := os.MkdirTemp("", "double") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d, socket, stop, err := startDouble(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return d, Env{Dir: dir, UID: os.Geteuid(), Environ: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "RINGFENCE_SOCKET=" + socket, "SHELL=/bin/sh",
	}}
}

func noSandbox(name string) error {
	return api.NotFound("ringfence sandbox list shows the names", "there is no sandbox %q", name)
}

func (d *double) sandbox(name string) (*ringfencev1.Sandbox, error) {
	if s := d.sandboxes[name]; s != nil {
		return s, nil
	}
	return nil, noSandbox(name)
}

func (d *double) GetStatus(context.Context, *ringfencev1.GetStatusRequest) (*ringfencev1.AgentStatus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	status := &ringfencev1.AgentStatus{
		Version: "v1.2.3", Pid: 42, StartTime: api.Time(time.Now().Add(-90 * time.Minute)), State: d.state,
		Sandboxes: uint32(len(d.sandboxes)), Hooks: "adopted", SshSocket: d.ssh.path, ResidentBytes: 33 << 20,
	}
	if d.state != "serving" {
		status.Problems = []string{"it is \x1b[31mending"}
	}
	return status, nil
}

func (d *double) CreateSandbox(_ context.Context, r *ringfencev1.CreateSandboxRequest) (*ringfencev1.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := r.GetName()
	if name == "" {
		name = "chosen-" + strconv.Itoa(len(d.sandboxes))
	}
	if d.sandboxes[name] != nil {
		return nil, api.AlreadyExists("choose another name", "there is a sandbox %q already", name)
	}
	s := &ringfencev1.Sandbox{
		Name: name, Id: "id-" + name, Spec: r.GetSpec(), CreateTime: api.Time(time.Now()), Version: 1,
		Status: &ringfencev1.SandboxStatus{Phase: ringfencev1.SandboxStatus_READY, PolicyRevision: 1, PolicyRevisionLatest: 1, Uid: 61000, Allowed: 7, Denied: 3},
	}
	d.sandboxes[name] = s
	d.revisions[name] = []*ringfencev1.PolicyRevision{{Sandbox: name, Revision: 1, State: ringfencev1.PolicyRevision_LOADED, Source: r.GetSpec().GetPolicy()}}
	return api.Clone(s), nil
}

func (d *double) GetSandbox(_ context.Context, r *ringfencev1.GetSandboxRequest) (*ringfencev1.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.sandbox(r.GetName())
	if err != nil {
		return nil, err
	}
	return api.Clone(s), nil
}

func (d *double) ListSandboxes(_ context.Context, r *ringfencev1.ListSandboxesRequest) (*ringfencev1.ListSandboxesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := &ringfencev1.ListSandboxesResponse{}
	for _, name := range slices.Sorted(maps.Keys(d.sandboxes)) {
		s := d.sandboxes[name]
		if name <= r.GetPageToken() || !hasAll(s.GetSpec().GetLabels(), r.GetLabels()) {
			continue
		}
		if len(answer.Sandboxes) == doublePage {
			answer.NextPageToken = answer.Sandboxes[doublePage-1].GetName()
			break
		}
		answer.Sandboxes = append(answer.Sandboxes, api.Clone(s))
	}
	return answer, nil
}

func hasAll(has, wanted map[string]string) bool {
	for key, value := range wanted {
		if has[key] != value {
			return false
		}
	}
	return true
}

func (d *double) UpdateSandbox(_ context.Context, r *ringfencev1.UpdateSandboxRequest) (*ringfencev1.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.sandbox(r.GetName())
	if err != nil {
		return nil, err
	}
	if d.conflicts > 0 { // as if another had just written
		d.conflicts--
		s.Version++
	}
	if r.GetVersion() != s.GetVersion() {
		return nil, api.Aborted("read it again", "it was changed meanwhile")
	}
	for _, field := range r.GetFields() {
		switch field {
		case "labels":
			s.Spec.Labels = r.GetSpec().GetLabels()
		case "environment":
			s.Spec.Environment = r.GetSpec().GetEnvironment()
		case "providers":
			s.Spec.Providers = r.GetSpec().GetProviders()
		case "ssh_authorized_keys":
			s.Spec.SshAuthorizedKeys = r.GetSpec().GetSshAuthorizedKeys()
		case "policy":
			s.Spec.Policy = r.GetSpec().GetPolicy()
		}
	}
	s.Version++
	return api.Clone(s), nil
}

func (d *double) DeleteSandbox(_ context.Context, r *ringfencev1.DeleteSandboxRequest) (*ringfencev1.DeleteSandboxResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.sandbox(r.GetName()); err != nil && !r.GetAllowMissing() {
		return nil, err
	}
	delete(d.sandboxes, r.GetName())
	return &ringfencev1.DeleteSandboxResponse{}, nil
}

func (d *double) WatchSandboxes(_ *ringfencev1.WatchSandboxesRequest, stream ringfencev1.Sandboxes_WatchSandboxesServer) error {
	for change := range d.changes {
		if err := stream.Send(change); err != nil {
			return err
		}
	}
	return nil
}

func (d *double) AcceptProgram(_ context.Context, r *ringfencev1.AcceptProgramRequest) (*ringfencev1.AcceptProgramResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.sandbox(r.GetSandbox()); err != nil {
		return nil, err
	}
	d.accepted = append(d.accepted, r.GetPath())
	return &ringfencev1.AcceptProgramResponse{}, nil
}

func (d *double) IssueCertificate(_ context.Context, r *ringfencev1.IssueCertificateRequest) (*ringfencev1.IssueCertificateResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.sandbox(r.GetSandbox()); err != nil {
		return nil, err
	}
	certificate, err := d.ssh.certify(r.GetSandbox(), r.GetPublicKey())
	if err != nil {
		return nil, err
	}
	return &ringfencev1.IssueCertificateResponse{
		Certificate: certificate, HostKeys: []string{d.ssh.host.Public().String()}, Socket: d.ssh.path,
	}, nil
}

func (d *double) SetPolicy(_ context.Context, r *ringfencev1.SetPolicyRequest) (*ringfencev1.PolicyRevision, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.sandbox(r.GetSandbox())
	if err != nil {
		return nil, err
	}
	all := d.revisions[s.GetName()]
	latest := all[0].GetRevision()
	if r.GetLatest() != 0 && r.GetLatest() != latest {
		return nil, api.Aborted("look at ringfence policy revisions", "revision %d is the latest, not %d", latest, r.GetLatest())
	}
	revision := &ringfencev1.PolicyRevision{
		Sandbox: s.GetName(), Revision: latest + 1, State: ringfencev1.PolicyRevision_LOADED, Source: r.GetSource(),
		Digest: "d1ge500000000000", Warnings: []string{"a warning\x1b[0m"},
	}
	if !r.GetDryRun() {
		all[0].State = ringfencev1.PolicyRevision_SUPERSEDED
		d.revisions[s.GetName()] = append([]*ringfencev1.PolicyRevision{revision}, all...)
	}
	return api.Clone(revision), nil
}

func (d *double) GetPolicy(_ context.Context, r *ringfencev1.GetPolicyRequest) (*ringfencev1.PolicyRevision, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, revision := range d.revisions[r.GetSandbox()] {
		if r.GetRevision() == 0 || r.GetRevision() == revision.GetRevision() {
			return api.Clone(revision), nil
		}
	}
	return nil, api.NotFound("ringfence policy revisions lists them", "%s has no revision %d", r.GetSandbox(), r.GetRevision())
}

func (d *double) ListPolicyRevisions(_ context.Context, r *ringfencev1.ListPolicyRevisionsRequest) (*ringfencev1.ListPolicyRevisionsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first, _ := strconv.Atoi(r.GetPageToken())
	all := d.revisions[r.GetSandbox()]
	last := min(first+min(doublePage, int(r.GetPageSize())), len(all))
	answer := &ringfencev1.ListPolicyRevisionsResponse{}
	for _, revision := range all[first:last] {
		answer.Revisions = append(answer.Revisions, api.Clone(revision))
	}
	if last < len(all) {
		answer.NextPageToken = strconv.Itoa(last)
	}
	return answer, nil
}

func (d *double) CreateProvider(_ context.Context, r *ringfencev1.CreateProviderRequest) (*ringfencev1.Provider, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := r.GetProvider()
	d.secrets[p.GetName()] = p.GetCredentials()
	p.CredentialNames = slices.Sorted(maps.Keys(p.GetCredentials()))
	p.Version = 1
	d.providers[p.GetName()] = p
	return api.Clone(p), nil // with its secrets, which the command may not show all the same
}

func (d *double) provider(name string) (*ringfencev1.Provider, error) {
	if p := d.providers[name]; p != nil {
		return p, nil
	}
	return nil, api.NotFound("ringfence provider list shows the names", "there is no provider %q", name)
}

func (d *double) GetProvider(_ context.Context, r *ringfencev1.GetProviderRequest) (*ringfencev1.Provider, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, err := d.provider(r.GetName())
	if err != nil {
		return nil, err
	}
	return api.Clone(p), nil
}

func (d *double) ListProviders(_ context.Context, r *ringfencev1.ListProvidersRequest) (*ringfencev1.ListProvidersResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := &ringfencev1.ListProvidersResponse{}
	for _, name := range slices.Sorted(maps.Keys(d.providers)) {
		if name <= r.GetPageToken() {
			continue
		}
		if len(answer.Providers) == doublePage {
			answer.NextPageToken = answer.Providers[doublePage-1].GetName()
			break
		}
		answer.Providers = append(answer.Providers, api.Clone(d.providers[name]))
	}
	return answer, nil
}

func (d *double) UpdateProvider(_ context.Context, r *ringfencev1.UpdateProviderRequest) (*ringfencev1.Provider, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, err := d.provider(r.GetProvider().GetName())
	if err != nil {
		return nil, err
	}
	if r.GetVersion() != p.GetVersion() {
		return nil, api.Aborted("read it again", "it was changed meanwhile")
	}
	for _, field := range r.GetFields() {
		switch field {
		case "type":
			p.Type = r.GetProvider().GetType()
		case "config":
			p.Config = r.GetProvider().GetConfig()
		case "credentials":
			d.secrets[p.GetName()] = r.GetProvider().GetCredentials()
			p.CredentialNames = slices.Sorted(maps.Keys(r.GetProvider().GetCredentials()))
		}
	}
	p.Version++
	return api.Clone(p), nil
}

func (d *double) DeleteProvider(_ context.Context, r *ringfencev1.DeleteProviderRequest) (*ringfencev1.DeleteProviderResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.provider(r.GetName()); err != nil && !r.GetAllowMissing() {
		return nil, err
	}
	delete(d.providers, r.GetName())
	return &ringfencev1.DeleteProviderResponse{}, nil
}

func (d *double) QueryRecords(_ context.Context, r *ringfencev1.QueryRecordsRequest) (*ringfencev1.QueryRecordsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first, _ := strconv.Atoi(r.GetPageToken())
	answer := &ringfencev1.QueryRecordsResponse{}
	for i, record := range d.records[first:] {
		if len(answer.Records) == doublePage {
			answer.NextPageToken = strconv.Itoa(first + i)
			break
		}
		v, name := r.GetFilter().GetVerdict(), r.GetFilter().GetSandbox()
		if (v == "" || v == record.GetVerdict()) && (name == "" || name == record.GetSandbox()) {
			answer.Records = append(answer.Records, record)
		}
	}
	return answer, nil
}

// TailRecords sends what there is, and then goes away, as an agent that is restarted
// does, for as often as the double has restarts.
func (d *double) TailRecords(r *ringfencev1.TailRecordsRequest, stream ringfencev1.Records_TailRecordsServer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := max(len(d.records)-int(r.GetPast()), 0)
	for i, record := range d.records {
		if record.GetCursor() != "" && record.GetCursor() == r.GetAfter() {
			first = i + 1
		}
	}
	for _, record := range d.records[first:] {
		if name := r.GetFilter().GetSandbox(); name != "" && name != record.GetSandbox() {
			continue
		}
		if err := stream.Send(&ringfencev1.TailRecordsResponse{Message: &ringfencev1.TailRecordsResponse_Record{Record: record}}); err != nil {
			return err
		}
	}
	if d.restarts > 0 {
		d.restarts--
		d.records = append(d.records, &ringfencev1.Record{Cursor: "after", Json: `{"reason":"after_restart"}`})
		return api.Unavailable("call again", "the agent is stopping")
	}
	return stream.Send(&ringfencev1.TailRecordsResponse{Message: &ringfencev1.TailRecordsResponse_Lost{Lost: d.lost}})
}
