package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/store"
)

// maxRevisions is how many revisions of a sandbox's policy are kept.
const maxRevisions = 100

// policiesService serves ringfence.v1.Policies.
type policiesService struct {
	pb.UnimplementedPoliciesServer
	*Daemon
}

// SetPolicy makes a new revision, and puts it in force if it loads.
func (s policiesService) SetPolicy(ctx context.Context, req *pb.SetPolicyRequest) (*pb.PolicyRevision, error) {
	if len(req.GetSource().GetFiles()) == 0 {
		return nil, api.InvalidArgument("send the files of the policy, or the name of a shipped one", "source is empty")
	}
	if req.GetDryRun() {
		if s.fleet.find(req.GetSandbox()) == nil {
			return nil, noSandbox(req.GetSandbox())
		}
		_, warnings, digest, err := s.library.load(req.GetSource())
		if err != nil {
			return nil, err
		}
		return &pb.PolicyRevision{Sandbox: req.GetSandbox(), Digest: digest, Warnings: warnings}, nil
	}
	b, err := s.take(req.GetSandbox())
	if err != nil {
		return nil, err
	}
	defer b.turn.Unlock()
	if _, _, saved := s.fleet.look(b); req.GetLatest() != 0 && req.GetLatest() != saved.Latest {
		return nil, api.Aborted("read the latest revision and decide again", "the latest revision is %d, not %d", saved.Latest, req.GetLatest())
	}
	revision, err := s.setPolicy(ctx, b, req.GetSource(), nil)
	s.recordChange(ctx, flow.ReasonPolicySet, b.name, "policy", err)
	return revision, err
}

// setPolicy makes a source the newest revision of a sandbox's policy. What does not
// load is kept as one that failed, and is the error. With it the spec becomes what is
// given, unless that is nil. The caller has the box's turn.
func (d *Daemon) setPolicy(ctx context.Context, b *box, source *pb.PolicySource, spec *pb.SandboxSpec) (*pb.PolicyRevision, error) {
	_, life, saved := d.fleet.look(b)
	if life == nil {
		return nil, notReady(b.name)
	}
	p, warnings, digest, loadErr := d.library.load(source)
	before := life.engine.Policy()
	revision := &pb.PolicyRevision{
		Sandbox: b.name, Revision: saved.Latest + 1, Source: source, Digest: digest, Warnings: warnings,
		State: pb.PolicyRevision_PENDING, CreateTime: api.Time(time.Now()),
	}
	// First on disk: an agent that is killed here goes on with the one of before.
	if err := d.putRevision(revision); err != nil {
		return nil, err
	}
	if loadErr == nil {
		revision.Warnings = slices.Concat(warnings, d.keeps(b, life, p))
		loadErr = life.SetPolicy(ctx, p) // decides open connections again before it returns
	}
	if loadErr != nil {
		revision.State, revision.Error = pb.PolicyRevision_FAILED, said(loadErr.Error())
	} else {
		revision.State, revision.LoadTime = pb.PolicyRevision_LOADED, api.Time(time.Now())
	}
	was, _, _ := d.fleet.look(b)
	d.fleet.change(b, func(b *box, next *pb.Sandbox) {
		b.saved.Latest = revision.GetRevision()
		if loadErr == nil {
			b.saved.Revision = revision.GetRevision()
			if spec != nil {
				next.Spec = spec
			}
			next.Spec.Policy = source
		}
		next.Status.PolicyRevision, next.Status.PolicyRevisionLatest = b.saved.Revision, b.saved.Latest
	})
	if err := d.saveWith(b, revision); err != nil {
		// What cannot be kept is not in force: the next agent would not know of it.
		d.fleet.change(b, func(b *box, next *pb.Sandbox) {
			b.saved, next.Spec, next.Status = saved, was.GetSpec(), was.GetStatus()
		})
		if loadErr == nil {
			err = errors.Join(err, life.SetPolicy(context.WithoutCancel(ctx), before))
		}
		return nil, err
	}
	if err := d.prune(b.name, revision.GetRevision(), saved.Revision); err != nil {
		d.log.Warn("an old revision of a policy is not removed", "sandbox", b.name, "error", err)
	}
	return revision, loadErr
}

// saveWith writes a sandbox and a revision of its policy in one step.
func (d *Daemon) saveWith(b *box, revision *pb.PolicyRevision) error {
	var batch store.Batch
	value, err := api.Encode(revision)
	if err != nil {
		return err
	}
	batch.Put(store.Policies, revisionKey(b.name, revision.GetRevision()), value)
	if value, err = d.encode(b); err != nil {
		return err
	}
	batch.Put(store.Sandboxes, b.name, value)
	return d.store.Write(&batch)
}

// keeps tells what a sandbox does not take over from a policy while it runs.
func (d *Daemon) keeps(b *box, life *life, p *policy.Policy) (warnings []string) {
	if !p.SameFiles(life.engine.Policy()) {
		warnings = append(warnings, "the policy names other files (filesystem_policy, landlock): the sandbox keeps those that it was started with")
	}
	message, _, saved := d.fleet.look(b)
	switch user, err := userOf(message.GetSpec().GetUser(), p, saved.Number); {
	case err != nil:
		warnings = append(warnings, fmt.Sprintf("the sandbox keeps its user, and could not be made anew, as after a start of the machine: %v", err))
	case user.UID != life.user.UID || user.GID != life.user.GID:
		warnings = append(warnings, "the policy names another user: the sandbox keeps the one that it was started with")
	}
	for _, text := range warnings {
		d.log.Warn(text, "sandbox", b.name)
	}
	return warnings
}

// GetPolicy returns the revision in force, or the one asked for.
func (s policiesService) GetPolicy(_ context.Context, req *pb.GetPolicyRequest) (*pb.PolicyRevision, error) {
	b := s.fleet.find(req.GetSandbox())
	if b == nil {
		return nil, noSandbox(req.GetSandbox())
	}
	_, _, saved := s.fleet.look(b)
	number := req.GetRevision()
	if number == 0 {
		number = saved.Revision
	}
	value, err := s.store.Get(store.Policies, revisionKey(b.name, number))
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.NotFound("ringfence policy revisions lists those that are kept", "sandbox %q has no revision %d of its policy", b.name, number)
	}
	if err != nil {
		return nil, err
	}
	revision, err := decodeRevision(value)
	if err != nil {
		return nil, err
	}
	return shown(revision, saved), nil
}

// ListPolicyRevisions returns the newest first.
func (s policiesService) ListPolicyRevisions(_ context.Context, req *pb.ListPolicyRevisionsRequest) (*pb.ListPolicyRevisionsResponse, error) {
	b := s.fleet.find(req.GetSandbox())
	if b == nil {
		return nil, noSandbox(req.GetSandbox())
	}
	_, _, saved := s.fleet.look(b)
	before := saved.Latest + 1
	if token := req.GetPageToken(); token != "" {
		n, err := strconv.ParseUint(token, 10, 64)
		if err != nil {
			return nil, badToken()
		}
		before = n
	}
	page := api.NewPage[*pb.PolicyRevision](req.GetPageSize())
	oldest := uint64(1)
	if saved.Latest > maxRevisions {
		oldest = saved.Latest - maxRevisions + 1
	}
	for n := before - 1; n >= oldest && n < before; n-- {
		value, err := s.store.Get(store.Policies, revisionKey(b.name, n))
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		revision, err := decodeRevision(value)
		if err != nil {
			return nil, err
		}
		revision = shown(revision, saved)
		revision.Source = nil
		if !page.Add(revision) {
			token := strconv.FormatUint(n+1, 10)
			return &pb.ListPolicyRevisionsResponse{Revisions: page.Entries, NextPageToken: token}, nil
		}
	}
	return &pb.ListPolicyRevisionsResponse{Revisions: page.Entries}, nil
}

// shown is a revision as it is told: which is in force is not written with each.
func shown(revision *pb.PolicyRevision, saved saved) *pb.PolicyRevision {
	if revision.GetState() == pb.PolicyRevision_LOADED && revision.GetRevision() != saved.Revision {
		revision.State = pb.PolicyRevision_SUPERSEDED
	}
	return revision
}

func (d *Daemon) putRevision(revision *pb.PolicyRevision) error {
	value, err := api.Encode(revision)
	if err != nil {
		return err
	}
	return d.store.Put(store.Policies, revisionKey(revision.GetSandbox(), revision.GetRevision()), value)
}

func decodeRevision(value []byte) (*pb.PolicyRevision, error) {
	var revision pb.PolicyRevision
	if err := api.Decode(value, &revision); err != nil {
		return nil, err
	}
	return &revision, nil
}

// revisionKey sorts the revisions of one sandbox together, and in order.
func revisionKey(name string, number uint64) string {
	return name + "/" + string(binary.BigEndian.AppendUint64(nil, number))
}

// prune forgets the revision that is one too many, and the one that was in force before
// where it was kept for that alone.
func (d *Daemon) prune(name string, latest, before uint64) error {
	if latest <= maxRevisions {
		return nil
	}
	b := d.fleet.find(name)
	if b == nil {
		return nil
	}
	_, _, saved := d.fleet.look(b)
	var batch store.Batch
	for _, old := range []uint64{before, latest - maxRevisions} {
		if old <= latest-maxRevisions && old != saved.Revision { // else in force, however many failed since
			batch.Delete(store.Policies, revisionKey(name, old))
		}
	}
	return d.store.Write(&batch)
}

// forgetRevisions has a batch forget all of a sandbox's.
func (d *Daemon) forgetRevisions(batch *store.Batch, name string) error {
	err := d.store.Each(store.Policies, name+"/", func(item store.Item) error {
		if !strings.HasPrefix(item.Key, name+"/") {
			return errPageFull
		}
		batch.Delete(store.Policies, item.Key)
		return nil
	})
	if errors.Is(err, errPageFull) {
		return nil
	}
	return err
}

// firstRevision is the policy that a sandbox is made with.
func firstRevision(name string, source *pb.PolicySource, digest string, warnings []string) *pb.PolicyRevision {
	now := api.Time(time.Now())
	return &pb.PolicyRevision{
		Sandbox: name, Revision: 1, State: pb.PolicyRevision_LOADED, Source: source, Digest: digest, Warnings: warnings,
		CreateTime: now, LoadTime: now,
	}
}
