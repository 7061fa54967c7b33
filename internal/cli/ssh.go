package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
)

const sshLong = `Opens an SSH session in the sandbox NAME with the system's ssh. Nothing has to be set
up: the agent signs a fresh key for some minutes, its host key is known beforehand,
and neither ~/.ssh nor an agent of keys is used. What follows NAME is ssh's own:
options, and a command.

For ssh, scp, rsync, git and editors without "ringfence" before them, see "ringfence
ssh-config".

Exit status: ssh's, which is the command's, or 255 where ssh failed; 125 when
Ringfence itself failed.`

const sshExample = `  ringfence ssh web
  ringfence ssh web -- git -C src status
  ringfence ssh web -L 8080:localhost:80 -N`

func newSSH(env Env, status *int) *cobra.Command {
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:                   "ssh [flags] NAME [--] [SSH-OPTION...] [COMMAND [ARG...]]",
		Short:                 "Open an SSH session in a sandbox",
		Long:                  sshLong,
		Example:               sshExample,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 0 {
				return hint(errors.New("NAME is missing"), "ringfence sandbox list shows the names")
			}
			name, args := args[0], args[1:]
			if len(args) > 0 && args[0] == "--" {
				args = args[1:]
			}
			ctx, interrupted := catchSignals(cmd.Context())
			defer interrupted.stop()
			login, err := newLogin(ctx, r, name)
			if err != nil {
				return ownFailure(err)
			}
			defer func() { err = errors.Join(err, login.remove()) }()
			*status, err = login.ssh(ctx, env, interrupted, args)
			return err
		},
	}
	cmd.Flags().SetInterspersed(false)
	r.addTo(cmd.Flags())
	cmd.ValidArgsFunction = completeSandbox(r, 1)
	return cmd
}

// login is a way into a sandbox for one session: a key that was signed for it, and
// files that go when it ends.
type login struct {
	name  string
	files sshFiles
	proxy string // command line
}

// newLogin makes the files in a directory of its own. Remove must be called.
func newLogin(ctx context.Context, r *remote, name string) (_ *login, err error) {
	dir, err := os.MkdirTemp("", "ringfence-ssh-") // 0700
	if err != nil {
		return nil, err
	}
	l := &login{name: name, files: sshFiles{dir}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.remove())
		}
	}()
	err = r.call(func(c *api.Client) error {
		signed, err := l.files.refresh(ctx, c, name)
		if err != nil {
			return err
		}
		l.proxy, err = proxyCommand(signed.GetSocket())
		return err
	})
	return l, err
}

func (l *login) remove() error { return os.RemoveAll(l.files.dir) }

// command is ssh with all that the login is made of. No configuration is read: a
// "Host *" of the user's could send it elsewhere.
func (l *login) command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path, err := exec.LookPath("ssh")
	if err != nil {
		return nil, hint(fmt.Errorf("there is no ssh: %w", err), "install OpenSSH's client (openssh-client)")
	}
	words := []string{"-F", "none"}
	for _, option := range l.files.options(l.name, l.proxy) {
		words = append(words, "-o", option.name+"="+option.value)
	}
	return exec.CommandContext(ctx, path, append(words, args...)...), nil
}

// ssh runs ssh to its end, with our own streams.
func (l *login) ssh(ctx context.Context, env Env, interrupted *interrupts, args []string) (int, error) {
	cmd, err := l.command(ctx, append([]string{hostOf(l.name)}, args...)...)
	if err != nil {
		return 0, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = env.Stdin, env.Stdout, env.Stderr, env.Environ
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start ssh: %w", err)
	}
	interrupted.deliverTo(child{cmd.Process})
	err = cmd.Wait()
	if exited := (*exec.ExitError)(nil); errors.As(err, &exited) {
		if ws, ok := exited.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exited.ExitCode(), nil
	}
	return 0, err
}

// child is a process of ours that signals are handed on to.
type child struct{ *os.Process }

// Signal implements signaller.
func (c child) Signal(s syscall.Signal) error { return c.Process.Signal(s) }
