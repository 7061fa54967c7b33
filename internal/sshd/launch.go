package sshd

import (
	"github.com/ringfence/ringfence/internal/launch"
)

// For returns the command as internal/launch starts it: as the user of env, in a
// directory, with the environment of env and what the client asks for.
func (c *Command) For(env launch.EnvConfig, dir string) (launch.Command, error) {
	command := launch.Command{
		Dir: dir, UID: env.User.UID, GID: env.User.GID, Groups: env.User.Groups,
		Stdio: c.Stdio, Terminal: [3]bool{c.Terminal, c.Terminal, c.Terminal}, Size: c.Size,
	}
	if c.Kind == KindSFTP {
		command.Builtin, command.OnTransfer = launch.BuiltinSFTP, c.OnTransfer
		return command, nil
	}
	env.Requested = c.Env
	var err error
	if command.Env, err = launch.ServiceEnvironment(env); err != nil {
		return launch.Command{}, err
	}
	command.Argv, err = c.Argv(env.User.Shell)
	return command, err
}
