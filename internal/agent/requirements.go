package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/datapath"
	"github.com/ringfence/ringfence/internal/floor"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/netns"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
)

// Requirements says what an agent needs of the machine, and what is there, by the
// rooms that need it. It takes a few milliseconds, makes nothing, and needs no root:
// what only root can tell is unknown to others.
func Requirements() []floor.Requirement {
	var all []floor.Requirement
	for _, g := range []struct {
		name string
		of   []floor.Requirement
	}{
		{"machine", append([]floor.Requirement{floor.Kernel()}, launch.Privileges()...)},
		{"hooks", append(datapath.Requirements(), cgroup.Requirements()...)},
		{"sandbox", append(netns.Requirements(), launch.Requirements()...)},
	} {
		for _, r := range g.of {
			r.Group = g.name
			all = append(all, r)
		}
	}
	return all
}

// Trial is what Try has seen: how long it took until the hooks were attached, and
// from then until a command had run in a sandbox.
type Trial struct {
	Attach, Run time.Duration
}

// Try starts an agent, runs a command that does nothing in a sandbox that may reach
// nothing, and removes both. It is the one sure sign that the machine can do it.
func Try(ctx context.Context, log *slog.Logger) (t Trial, err error) {
	engine, err := emptyEngine(ctx)
	if err != nil {
		return t, err
	}
	start := time.Now()
	a, err := Start(ctx, Config{MaxSandboxes: 1, Sink: nowhere{}, Log: log})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	t.Attach = time.Since(start)
	start = time.Now()
	err = a.runNothing(ctx, engine)
	t.Run = time.Since(start)
	return t, err
}

// nowhere takes the records of a sandbox that does nothing.
type nowhere struct{}

// Emit implements Sink.
func (nowhere) Emit(*flow.Record) {}

// emptyEngine returns an engine on a policy that allows nothing.
func emptyEngine(ctx context.Context) (*policy.Engine, error) {
	p, _, err := policy.Load(policy.Source{Name: "trial", Data: []byte("version: 1\nnetwork_policies: {}\n")})
	if err != nil {
		return nil, err
	}
	return policy.NewEngine(ctx, p, policy.Config{})
}

func (a *Agent) runNothing(ctx context.Context, engine *policy.Engine) (err error) {
	user, err := launch.ReservedUser(a.Number())
	if err != nil {
		return err
	}
	sb, err := a.CreateSandbox(ctx, SandboxConfig{
		Name: "trial", Engine: engine, User: rootfs.User{UID: user.UID, GID: user.GID, Groups: user.Groups},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sb.Close()) }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	process, err := sb.Exec(ctx, launch.Command{
		// The one program that every system has in a place of its own.
		Argv: []string{"/bin/sh", "-c", ":"}, Dir: "/", UID: user.UID, GID: user.GID, Groups: user.Groups,
		Stdio: [3]*os.File{null, null, null},
	})
	if err != nil {
		return err
	}
	status, err := process.Wait(ctx)
	if err == nil && status.ExitCode() != 0 {
		err = &launch.StepError{Step: "run /bin/sh", Err: errNotZero, Code: status.ExitCode()}
	}
	return err
}

var errNotZero = errors.New("it ended with another status than 0")
