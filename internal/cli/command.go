package cli

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/sandbox"
	"github.com/ringfence/ringfence/internal/tty"
)

// command runs the command to its end. What it left running ends with it.
func (r *run) command(ctx context.Context, sb *agent.Sandbox, user launch.User) (status int, err error) {
	streams, err := launch.SafeStdio([3]*os.File{r.env.Stdin, r.env.Stdout, r.env.Stderr})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, streams.Finish(context.Background())) }()
	environ, err := launch.Environment(launch.EnvConfig{
		Inherit: r.env.Environ, User: user, Sandbox: sb.Name(), Proxy: sandbox.ProxyURL, Extra: r.settings.env,
	})
	if err != nil {
		return 0, err
	}
	r.tellPreload(environ)
	process, err := sb.Exec(ctx, launch.Command{
		Argv: r.argvOr(user), Env: environ, Dir: r.settings.workdir,
		UID: user.UID, GID: user.GID, Groups: user.Groups,
		Stdio: streams.Stdio, Terminal: streams.Terminal, Size: r.terminalSize(streams),
	})
	streams.Started()
	if err != nil {
		return 0, err
	}
	r.interrupted.deliverTo(process)
	if process.Terminal != nil {
		defer process.Terminal.Close()
	}
	return r.attend(ctx, sb, process, streams)
}

// tellPreload says that the environment taints every program that gets it.
func (r *run) tellPreload(environ []string) {
	if set := flow.PreloadIn(environ); set != 0 {
		r.log.Warn("programs with these variables in their environment match no policy, unless a binary has allow_taints: [preload]; unset them, or allow that",
			"variables", strings.Join(set.Names(), ", "))
	}
}

// attend copies the terminal, if there is one, until the command ends.
func (r *run) attend(ctx context.Context, sb *agent.Sandbox, process *launch.Process, streams *launch.Streams) (int, error) {
	if process.Terminal != nil {
		var in *os.File
		if streams.Terminal[0] {
			in = r.env.Stdin
		}
		session, err := tty.NewSession(process.Terminal, in, r.terminal(streams))
		if err != nil {
			return 0, err
		}
		defer session.Finish(context.Background())
	}
	status, err := process.Wait(ctx)
	// What the command left behind would hold the terminal open.
	if killErr := sb.Kill(); err == nil {
		err = killErr
	}
	return status.ExitCode(), err
}

// terminal returns the person's terminal to write to: it is there wherever one
// of the streams is a terminal.
func (r *run) terminal(streams *launch.Streams) *os.File {
	files := [3]*os.File{r.env.Stdin, r.env.Stdout, r.env.Stderr}
	for _, i := range []int{1, 2, 0} {
		if streams.Terminal[i] {
			return files[i]
		}
	}
	return nil
}

func (r *run) terminalSize(streams *launch.Streams) tty.Size {
	out := r.terminal(streams)
	if out == nil {
		return tty.Size{}
	}
	size, err := tty.SizeOf(out)
	if err != nil {
		return tty.Size{} // the session sets it anew
	}
	return size
}
