package sshd

import (
	"slices"

	"github.com/ringfence/ringfence/internal/launch"
)

// For returns the command as internal/launch starts it: as a user, in a directory, with
// the environment of env, whose Extra the client's variables follow.
func (c *Command) For(env launch.EnvConfig, dir string) (launch.Command, error) {
	env.Extra = append(slices.Clip(env.Extra), c.Env...)
	variables, err := launch.Environment(env)
	if err != nil {
		return launch.Command{}, err
	}
	command := launch.Command{
		Env: variables, Dir: dir,
		UID: env.User.UID, GID: env.User.GID, Groups: env.User.Groups,
		Stdio: c.Stdio, Terminal: [3]bool{c.Terminal, c.Terminal, c.Terminal}, Size: c.Size,
	}
	// The pipes are the user's, or it could not open its own /dev/stdout.
	for _, f := range c.Stdio {
		if f == nil {
			continue
		}
		if err := f.Chown(int(env.User.UID), int(env.User.GID)); err != nil {
			return launch.Command{}, err
		}
	}
	command.Argv, err = c.Argv(env.User.Shell)
	return command, err
}
