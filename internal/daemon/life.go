package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/store"
)

// create makes a new sandbox, and keeps it. The caller has its turn.
func (d *Daemon) create(ctx context.Context, b *box) error {
	message, _, _ := d.fleet.look(b)
	source := message.GetSpec().GetPolicy()
	if len(source.GetFiles()) == 0 {
		source = d.defaultPolicy
	}
	_, warnings, digest, err := d.library.load(source)
	if err != nil {
		return err
	}
	for _, text := range warnings {
		d.log.Warn(text, "sandbox", b.name)
	}
	d.fleet.change(b, func(b *box, next *pb.Sandbox) {
		next.Spec.Policy = source
		b.saved.Revision, b.saved.Latest = 1, 1
	})
	// Kept before anything is made: what an agent leaves that is killed here is found
	// by its name, and made again.
	err = errors.Join(d.putRevision(firstRevision(b.name, source, digest, warnings)), d.save(b))
	if err == nil {
		err = d.start(ctx, b, nil)
	}
	if err == nil {
		return nil
	}
	return errors.Join(err, d.forget(b.name))
}

// start makes what runs of a sandbox, or adopts what runs of it already. The caller
// has its turn.
func (d *Daemon) start(ctx context.Context, b *box, adopt func(agent.SandboxConfig) (*agent.Sandbox, error)) error {
	message, _, saved := d.fleet.look(b)
	spec := message.GetSpec()
	p, engine, err := d.engine(ctx, spec)
	if err != nil {
		return err
	}
	user, err := userOf(spec.GetUser(), p, saved.Number)
	if adopt != nil && saved.User != nil {
		user, err = *saved.User, nil
	}
	if err != nil {
		return err
	}
	l := &life{engine: engine, user: user, endpoint: d.endpointOf(spec), ending: make(chan struct{})}
	trust, err := d.trusted(b.name)
	if err != nil {
		return err
	}
	cfg := agent.SandboxConfig{
		Name: b.name, Engine: engine, Visible: visible(spec), Workdir: workdir(spec, user),
		User:    rootfs.User{UID: user.UID, GID: user.GID, Groups: user.Groups},
		Trusted: trust, SaveTrust: d.saveTrust(b.name),
	}
	if adopt != nil {
		l.Sandbox, err = adopt(cfg)
	} else {
		l.Sandbox, err = d.agent.CreateSandbox(ctx, cfg)
	}
	if err != nil {
		return err
	}
	if adopt != nil {
		b.counts.recall(l.Tally())
	}
	state := l.State()
	d.fleet.change(b, func(b *box, next *pb.Sandbox) {
		b.life, b.saved.State, b.saved.User = l, &state, &l.user
		next.Status.Phase, next.Status.Reason = pb.SandboxStatus_READY, ""
		if adopt == nil || next.GetStatus().GetStartTime() == nil {
			next.Status.StartTime = api.Time(time.Now())
		}
	})
	if adopt == nil { // else what is kept is what it was adopted by: a full disk ends nothing
		if err := d.save(b); err != nil {
			return errors.Join(err, d.end(context.WithoutCancel(ctx), b, pb.SandboxStatus_FAILED, err.Error()))
		}
	}
	d.tasks.Go(func() { d.attend(b, l) })
	return nil
}

// engine returns what decides for a sandbox.
func (d *Daemon) engine(ctx context.Context, spec *pb.SandboxSpec) (*policy.Policy, *policy.Engine, error) {
	p, _, _, err := d.library.load(spec.GetPolicy())
	if err != nil {
		return nil, nil, err
	}
	control := d.cfg.ControlPlane
	if text := spec.GetControlPlane(); text != "" {
		target, err := flow.ParseEndpoint(text)
		if err != nil {
			return nil, nil, api.InvalidArgument("write HOST:PORT or a URL", "control_plane %q: %v", text, err)
		}
		control = target
	}
	e, err := policy.NewEngine(ctx, p, policy.Config{ControlPlane: control})
	return p, e, err
}

// attend waits for the end of a sandbox's processes that nobody asked for.
func (d *Daemon) attend(b *box, l *life) {
	select {
	case <-l.Done():
	case <-d.stopping:
		return
	}
	b.turn.Lock()
	defer b.turn.Unlock()
	if _, now, _ := d.fleet.look(b); now != l {
		return // it was deleted
	}
	const reason = "the sandbox's init has ended: it was killed, perhaps for want of memory"
	d.log.Error(reason, "sandbox", b.name)
	if err := d.end(context.Background(), b, pb.SandboxStatus_FAILED, reason); err != nil {
		d.log.Error("what is left of a sandbox is not all removed", "sandbox", b.name, "error", err)
	}
}

// end ends what runs of a sandbox, also where it is not served. The caller has its turn.
func (d *Daemon) end(ctx context.Context, b *box, phase pb.SandboxStatus_Phase, reason string) error {
	_, l, saved := d.fleet.look(b)
	d.fleet.change(b, func(_ *box, next *pb.Sandbox) { next.Status.Phase, next.Status.Reason = phase, said(reason) })
	var err error
	if l != nil {
		close(l.ending)
		err = l.Close()
	} else if saved.State != nil {
		err = d.agent.RemoveSandbox(ctx, b.name, *saved.State)
	}
	d.fleet.change(b, func(b *box, _ *pb.Sandbox) {
		if b.life = nil; err == nil { // else there is something to remove still
			b.saved.State = nil
		}
	})
	return err
}

// remove deletes a sandbox for good. The caller has its turn.
func (d *Daemon) remove(ctx context.Context, b *box) error {
	// What has begun is done, also for a caller who has gone.
	if err := d.end(context.WithoutCancel(ctx), b, pb.SandboxStatus_DELETING, ""); err != nil {
		d.fleet.change(b, func(_ *box, next *pb.Sandbox) {
			next.Status.Phase, next.Status.Reason = pb.SandboxStatus_FAILED, said("it could not be deleted: "+err.Error())
		})
		return err
	}
	if err := d.forget(b.name); err != nil {
		return err
	}
	d.fleet.remove(b)
	return nil
}

// save writes a sandbox to the store.
func (d *Daemon) save(b *box) error {
	value, err := d.encode(b)
	if err != nil {
		return err
	}
	return d.store.Put(store.Sandboxes, b.name, value)
}

// encode returns a sandbox as the store has it.
func (d *Daemon) encode(b *box) ([]byte, error) {
	message, _, saved := d.fleet.look(b)
	var err error
	if saved.Sandbox, err = api.Encode(message); err != nil {
		return nil, err
	}
	return json.Marshal(saved)
}

// forget removes a sandbox, its revisions and its trust from the store, in one step:
// nothing of it is left to another of the same name.
func (d *Daemon) forget(name string) error {
	var batch store.Batch
	if err := d.forgetRevisions(&batch, name); err != nil {
		return err
	}
	batch.Delete(store.Sandboxes, name)
	batch.Delete(store.Trust, name)
	return d.store.Write(&batch)
}

// endpointOf returns the control plane as the sandbox's programs are told of it.
func (d *Daemon) endpointOf(spec *pb.SandboxSpec) string {
	if text := spec.GetControlPlane(); text != "" {
		return text
	}
	return d.cfg.Endpoint
}

// isOver reports whether nothing will run in a sandbox any more.
func isOver(message *pb.Sandbox) bool {
	phase := message.GetStatus().GetPhase()
	return phase == pb.SandboxStatus_FAILED || phase == pb.SandboxStatus_DELETING
}

// workdir is where commands start.
func workdir(spec *pb.SandboxSpec, user launch.User) string {
	return cmp.Or(spec.GetWorkdir(), user.Home)
}
