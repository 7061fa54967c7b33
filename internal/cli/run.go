package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
)

// sandboxName is the name of a run's only sandbox.
const sandboxName = "sandbox"

const runLong = `Runs COMMAND (default: the user's shell) in a new sandbox, of a running agent or of
one in this process. Only what the policy allows is reached; each program is told
apart by the file that the kernel runs, not by its name.

A policy file that changes is read again at once; without a terminal, SIGHUP has all
of it read again. What is no policy is refused, and the one of before stays. So is a
file that others than root could have written.

On a terminal the command gets a terminal of its own, and a summary of what was
allowed and denied follows at the end. Everything is removed on any exit, but
for directories that were missing, and were made because the policy lets them be written.

Where an agent is running (see "ringfence agent status") the command runs in a sandbox
of that, which is deleted at the end. Flags that are for an agent as a whole (--rego,
--resolver, --trusted-network, --upstream-ca), and streams of which only some are a
terminal, have it run in one of its own, as --agent never does. The standard input is
then read ahead.

Needs root, or access to the running agent. The command does not get it: it runs as
--user, else as the policy's process says, else as the user who called sudo, else as a
uid of its own.

Flags marked * may be repeated; those after COMMAND are COMMAND's.

Exit status: the command's; 128+n when signal n ended it; 125 when Ringfence
itself failed; 126 and 127 when the command could not be run or found.`

const runExample = `  sudo ringfence run -- claude
  sudo ringfence run --policy my.yaml --records - -- git clone https://github.com/octocat/Hello-World
  sudo ringfence run                      # a shell`

func newRun(env Env, status *int) *cobra.Command {
	var opts runOptions
	cmd := &cobra.Command{
		Use:                   "run [flags] [--] [COMMAND [ARG...]]",
		Short:                 "Run a command in a new sandbox",
		Long:                  runLong,
		Example:               runExample,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			log := newLog(env.Stderr, opts.verbose)
			s, err := opts.resolve(env, log)
			if err != nil {
				return err
			}
			r := &run{env: env, settings: *s, argv: args, log: log}
			socket, err := r.chooseAgent(cmd.Flags(), opts.agent)
			if err != nil {
				return ownFailure(err)
			}
			*status, err = r.run(cmd.Context(), socket)
			return err
		},
	}
	opts.addFlags(cmd.Flags())
	completePolicies(cmd)
	return cmd
}

// run is one `ringfence run` whose flags are understood.
type run struct {
	env         Env
	settings    settings
	argv        []string
	log         *slog.Logger
	recorder    *recorder
	interrupted *interrupts
}

// streams are our own streams, which are the command's.
func (r *run) streams() [3]*os.File { return [3]*os.File{r.env.Stdin, r.env.Stdout, r.env.Stderr} }

// run returns the command's exit status, or an error where there is none. It runs in
// the agent at a socket, or in one of its own.
func (r *run) run(ctx context.Context, socket string) (status int, err error) {
	if r.env.UID != 0 && socket == "" {
		return 0, hint(errors.New("run needs root, to attach hooks and to make namespaces"), "sudo ringfence run ...")
	}
	if r.recorder, err = openRecorder(r.env, r.settings.records); err != nil {
		return 0, err
	}
	ctx, r.interrupted = catchInterrupts(ctx)
	defer r.interrupted.stop()
	if socket != "" {
		status, err = r.inService(ctx, socket)
	} else {
		status, err = r.inAgent(ctx)
	}
	return status, errors.Join(err, r.recorder.close())
}

// inAgent starts the agent and the policy engine side by side: neither needs the
// other, and each takes a good part of the time to the first connection.
func (r *run) inAgent(ctx context.Context) (status int, err error) {
	var a *agent.Agent
	var engine *policy.Engine
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		a, err = agent.Start(groupCtx, agent.Config{
			Resolvers: r.settings.resolvers, Trusted: r.settings.trusted,
			MaxSandboxes: 1, Sink: r.recorder, Log: r.log,
		})
		return err
	})
	group.Go(func() (err error) {
		engine, err = policy.NewEngine(groupCtx, r.settings.policy, policy.Config{ControlPlane: r.settings.controlPlane})
		return err
	})
	err = group.Wait()
	if a != nil {
		defer func() { err = errors.Join(err, a.Close()) }()
	}
	if err != nil {
		return 0, err
	}
	return r.inSandbox(ctx, a, engine)
}

func (r *run) inSandbox(ctx context.Context, a *agent.Agent, engine *policy.Engine) (int, error) {
	user, err := r.user(a)
	if err != nil {
		return 0, err
	}
	sb, err := a.CreateSandbox(ctx, agent.SandboxConfig{
		Name: sandboxName, Engine: engine, Visible: []string{realDir(r.settings.workdir)}, Workdir: r.settings.workdir,
		User: rootfs.User{UID: user.UID, GID: user.GID, Groups: user.Groups},
	})
	if err != nil {
		return 0, err
	}
	r.settings.feed.Reload = r.interrupted.reload
	sb.FollowPolicy(r.settings.feed)
	status, err := r.command(ctx, sb, user)
	return status, errors.Join(err, sb.Close())
}

// user returns who the command runs as: where nobody was named, a user that no
// other run on the machine has.
func (r *run) user(a *agent.Agent) (launch.User, error) {
	if r.settings.user != nil {
		return *r.settings.user, nil
	}
	return launch.ReservedUser(a.Number())
}

// argvOr returns the command to run: the user's shell where none was named.
func (r *run) argvOr(user launch.User) []string {
	if len(r.argv) > 0 {
		return r.argv
	}
	return []string{user.Shell}
}
