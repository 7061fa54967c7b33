package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/flow"
)

// sandboxesService serves ringfence.v1.Sandboxes.
type sandboxesService struct {
	pb.UnimplementedSandboxesServer
	*Daemon
}

// CreateSandbox returns when the fence stands.
func (s sandboxesService) CreateSandbox(ctx context.Context, req *pb.CreateSandboxRequest) (*pb.Sandbox, error) {
	name := req.GetName()
	if name == "" {
		name = "sandbox-" + randomHex(4)
	}
	spec := api.Clone(req.GetSpec())
	if spec == nil {
		spec = &pb.SandboxSpec{}
	}
	b, err := s.claim(name, spec)
	if err != nil {
		s.recordChange(ctx, flow.ReasonSandboxCreated, name, "", err)
		return nil, err
	}
	defer b.turn.Unlock()
	err = s.create(ctx, b)
	s.recordChange(ctx, flow.ReasonSandboxCreated, name, "", err)
	if err != nil {
		s.fleet.remove(b)
		return nil, err
	}
	if spec.GetEphemeral() {
		s.tasks.Go(func() { s.expire(b) })
	}
	return s.shown(b), nil
}

// claim enters a new sandbox, and has its turn. The providers that it names stay until
// it is seen that they are named.
func (d *Daemon) claim(name string, spec *pb.SandboxSpec) (*box, error) {
	d.providers.Lock()
	defer d.providers.Unlock()
	if err := d.checkSpec(spec); err != nil {
		return nil, err
	}
	b, free := d.fleet.claim(&pb.Sandbox{
		Name: name, Id: randomHex(16), Spec: spec, Version: 1, CreateTime: api.Time(time.Now()),
		Status: &pb.SandboxStatus{Phase: pb.SandboxStatus_CREATING},
	})
	if !free {
		return nil, api.AlreadyExists("choose another name, or delete that one first", "there is a sandbox %q already", name)
	}
	return b, nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// checkSpec refuses what no sandbox of this host can have.
func (d *Daemon) checkSpec(spec *pb.SandboxSpec) error {
	if t := spec.GetTemplate(); t != nil && !api.Equal(t, &pb.SandboxTemplate{}) {
		return api.FailedPrecondition("leave template out: image, runtime class, resources and pod template are for sandboxes in containers",
			"this agent makes sandboxes of this host, which have no template")
	}
	if err := checkLogLevel(spec.GetLogLevel()); err != nil {
		return err
	}
	if err := d.checkVisible(visible(spec)); err != nil {
		return err
	}
	if err := d.checkKeys(spec.GetSshAuthorizedKeys()); err != nil {
		return err
	}
	return d.checkProviders(spec.GetProviders())
}

func (d *Daemon) checkProviders(names []string) error {
	for _, name := range names {
		if _, err := d.provider(name); err != nil {
			if isNotFound(err) {
				return api.FailedPrecondition("ringfence provider create makes it", "there is no provider %q", name)
			}
			return err
		}
	}
	return nil
}

func checkLogLevel(level string) error {
	if levels := []string{"", "debug", "info", "warn", "error"}; !slices.Contains(levels, level) {
		return api.InvalidArgument("write debug, info, warn or error", "log_level %q is none", level)
	}
	return nil
}

// GetSandbox returns one.
func (s sandboxesService) GetSandbox(_ context.Context, req *pb.GetSandboxRequest) (*pb.Sandbox, error) {
	b := s.fleet.find(req.GetName())
	if b == nil {
		return nil, noSandbox(req.GetName())
	}
	return s.shown(b), nil
}

// ListSandboxes returns them in the order of their names.
func (s sandboxesService) ListSandboxes(_ context.Context, req *pb.ListSandboxesRequest) (*pb.ListSandboxesResponse, error) {
	page := api.NewPage[*pb.Sandbox](req.GetPageSize())
	boxes, _ := s.fleet.all()
	for _, b := range boxes {
		if token := req.GetPageToken(); token != "" && b.name <= token {
			continue
		}
		message, _, _ := s.fleet.look(b)
		if !hasLabels(message, req.GetLabels()) {
			continue
		}
		if !page.Add(s.shown(b)) {
			return &pb.ListSandboxesResponse{Sandboxes: page.Entries, NextPageToken: lastName(page.Entries)}, nil
		}
	}
	return &pb.ListSandboxesResponse{Sandboxes: page.Entries}, nil
}

func hasLabels(message *pb.Sandbox, want map[string]string) bool {
	for key, value := range want {
		if got, ok := message.GetSpec().GetLabels()[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// UpdateSandbox replaces the fields that are named, all or none.
func (s sandboxesService) UpdateSandbox(ctx context.Context, req *pb.UpdateSandboxRequest) (*pb.Sandbox, error) {
	b, err := s.take(req.GetName())
	if err != nil {
		return nil, err
	}
	defer b.turn.Unlock()
	if slices.Contains(req.GetFields(), "providers") {
		s.providers.Lock() // those that it will name are there, and stay until it does
		defer s.providers.Unlock()
	}
	message, _, _ := s.fleet.look(b)
	if v := req.GetVersion(); v != 0 && v != message.GetVersion() {
		return nil, changedMeanwhile(b.name, message.GetVersion(), v)
	}
	next, err := s.merge(message.GetSpec(), req)
	if err != nil {
		s.recordChange(ctx, flow.ReasonSandboxUpdated, b.name, strings.Join(req.GetFields(), ","), err)
		return nil, err
	}
	err = s.update(ctx, b, next, slices.Contains(req.GetFields(), "policy"))
	s.recordChange(ctx, flow.ReasonSandboxUpdated, b.name, strings.Join(req.GetFields(), ","), err)
	if err != nil {
		return nil, err
	}
	return s.shown(b), nil
}

// merge returns the spec with the named fields of the request's, checked.
func (d *Daemon) merge(spec *pb.SandboxSpec, req *pb.UpdateSandboxRequest) (*pb.SandboxSpec, error) {
	next, want := api.Clone(spec), req.GetSpec()
	for _, field := range req.GetFields() {
		switch field {
		case "labels":
			next.Labels = want.GetLabels()
		case "annotations":
			next.Annotations = want.GetAnnotations()
		case "environment":
			next.Environment = want.GetEnvironment()
		case "log_level":
			next.LogLevel = want.GetLogLevel()
		case "policy":
			next.Policy = want.GetPolicy()
		case "providers":
			next.Providers = want.GetProviders()
		case "ssh_authorized_keys":
			next.SshAuthorizedKeys = want.GetSshAuthorizedKeys()
		default:
			return nil, noField(field)
		}
	}
	if err := api.CheckSpec(next); err != nil { // each update may be within the limits, and all together not
		return nil, err
	}
	return next, d.checkSpec(next)
}

// update puts a spec in force. The policy comes first, for it alone can be refused.
func (d *Daemon) update(ctx context.Context, b *box, next *pb.SandboxSpec, newPolicy bool) error {
	if newPolicy {
		source := next.GetPolicy()
		if len(source.GetFiles()) == 0 {
			source = d.defaultPolicy
		}
		_, err := d.setPolicy(ctx, b, source, next)
		return err
	}
	message, _, _ := d.fleet.look(b)
	before := message.GetSpec()
	d.fleet.change(b, func(_ *box, message *pb.Sandbox) { message.Spec = next })
	err := d.save(b)
	if err != nil { // what is not kept is not told to be so
		d.fleet.change(b, func(_ *box, message *pb.Sandbox) { message.Spec = before })
	}
	return err
}

// DeleteSandbox returns when nothing is left of it.
func (s sandboxesService) DeleteSandbox(ctx context.Context, req *pb.DeleteSandboxRequest) (*pb.DeleteSandboxResponse, error) {
	b, err := s.take(req.GetName())
	if err != nil {
		if req.GetAllowMissing() {
			return &pb.DeleteSandboxResponse{}, nil
		}
		return nil, err
	}
	defer b.turn.Unlock()
	err = s.remove(ctx, b)
	s.recordChange(ctx, flow.ReasonSandboxDeleted, b.name, "", err)
	if err != nil {
		return nil, err
	}
	return &pb.DeleteSandboxResponse{}, nil
}

// AcceptProgram trusts what is used next under a path.
func (s sandboxesService) AcceptProgram(ctx context.Context, req *pb.AcceptProgramRequest) (*pb.AcceptProgramResponse, error) {
	if !strings.HasPrefix(req.GetPath(), "/") {
		return nil, api.InvalidArgument("write the path of the program as the sandbox sees it", "path %q is not absolute", req.GetPath())
	}
	// With its turn: one that is deleted meanwhile leaves its trust to none of the same
	// name.
	b, err := s.take(req.GetSandbox())
	if err != nil {
		return nil, err
	}
	defer b.turn.Unlock()
	_, life, _ := s.fleet.look(b)
	if life == nil {
		return nil, notReady(b.name)
	}
	life.AcceptProgram(req.GetPath())
	// At once, though it would be kept soon: who was answered may count on it.
	err = s.saveTrust(b.name)(life.Trusted())
	s.recordChange(ctx, flow.ReasonSandboxUpdated, b.name, "accept "+req.GetPath(), err)
	if err != nil {
		return nil, err
	}
	return &pb.AcceptProgramResponse{}, nil
}

// WatchSandboxes sends what there is, and then what changes. A slow reader misses
// what came between, never the last word.
func (s sandboxesService) WatchSandboxes(req *pb.WatchSandboxesRequest, stream pb.Sandboxes_WatchSandboxesServer) error {
	seen := map[string]*pb.Sandbox{}
	for first := true; ; first = false {
		boxes, changed := s.fleet.all()
		present := map[string]bool{}
		for _, b := range boxes {
			if req.GetName() != "" && b.name != req.GetName() {
				continue
			}
			present[b.name] = true
			message, _, _ := s.fleet.look(b)
			if known := seen[b.name]; known == message {
				continue
			}
			event := &pb.SandboxEvent{Type: eventType(first, seen[b.name], message), Sandbox: s.shown(b)}
			if err := stream.Send(event); err != nil {
				return err
			}
			seen[b.name] = message
		}
		for name, message := range seen {
			if present[name] {
				continue
			}
			if err := stream.Send(&pb.SandboxEvent{Type: pb.SandboxEvent_DELETED, Sandbox: message}); err != nil {
				return err
			}
			delete(seen, name)
		}
		if first {
			if err := stream.Send(&pb.SandboxEvent{Type: pb.SandboxEvent_SYNCED}); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}

func eventType(first bool, known, message *pb.Sandbox) pb.SandboxEvent_Type {
	switch {
	case first:
		return pb.SandboxEvent_PRESENT
	case known == nil, known.GetId() != message.GetId():
		return pb.SandboxEvent_CREATED
	}
	return pb.SandboxEvent_UPDATED
}

// take returns a sandbox, and has its turn.
func (d *Daemon) take(name string) (*box, error) {
	for {
		b := d.fleet.find(name)
		if b == nil {
			return nil, noSandbox(name)
		}
		b.turn.Lock()
		if d.fleet.find(name) == b {
			return b, nil
		}
		b.turn.Unlock() // somebody else's turn has deleted it
	}
}

// running returns a sandbox in which something can be done.
func (d *Daemon) running(name string) (*box, error) {
	b := d.fleet.find(name)
	if b == nil {
		return nil, noSandbox(name)
	}
	if _, life, _ := d.fleet.look(b); life == nil {
		return nil, notReady(name)
	}
	return b, nil
}

// shown returns a sandbox as it is told: with what is counted now.
func (d *Daemon) shown(b *box) *pb.Sandbox {
	message, life, saved := d.fleet.look(b)
	out := api.Clone(message)
	status := out.GetStatus()
	status.PolicyRevision, status.PolicyRevisionLatest = saved.Revision, saved.Latest
	tally := b.counts.now()
	status.Allowed, status.Denied = tally.Allowed, tally.Denied
	if life == nil {
		return out
	}
	status.Generation = life.engine.Generation()
	status.CgroupId, status.NetnsCookie, status.Uid = life.CgroupID(), life.NetnsCookie(), life.user.UID
	if d.ssh != nil {
		status.SshConnections = uint32(d.ssh.Conns(b.name))
	}
	stats, err := life.Stats()
	if err != nil {
		d.log.Warn("counters cannot be read", "sandbox", b.name, "error", err)
		return out
	}
	status.Processes = stats.Tasks
	for reason, n := range stats.Rejected {
		if status.Rejected == nil {
			status.Rejected = map[string]uint64{}
		}
		status.Rejected[fmt.Sprint(reason)] = n
	}
	return out
}
