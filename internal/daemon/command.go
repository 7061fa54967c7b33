package daemon

import (
	"context"
	"net"
	"os"
	"slices"

	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/sandbox"
	"github.com/ringfence/ringfence/internal/tty"
)

// order is a command as SSH and the API ask for it.
type order struct {
	argv      []string
	env       []string // of the caller's, K=V, and taken as it is
	requested []string // of a client's far away, of which little is taken
	term      string
	dir       string
	terminal  bool
	size      tty.Size
	stdio     [3]*os.File
	detached  bool
	builtin   launch.Builtin
	transfer  func(launch.Transfer)
}

// exec starts a command in the sandbox, as its user and with its environment.
func (d *Daemon) exec(ctx context.Context, b *box, l *life, o order) (*launch.Process, error) {
	message, _, _ := d.fleet.look(b)
	spec := message.GetSpec()
	var extra []string
	for key, value := range spec.GetEnvironment() {
		extra = append(extra, key+"="+value)
	}
	slices.Sort(extra)
	environ, err := launch.ServiceEnvironment(launch.EnvConfig{
		User: l.user, Sandbox: b.name, SandboxID: message.GetId(), Proxy: sandbox.ProxyURL, Endpoint: l.endpoint,
		Term: o.term, Requested: o.requested, Extra: append(extra, o.env...),
	})
	if err != nil {
		return nil, err
	}
	argv := o.argv
	if len(argv) == 0 {
		argv = []string{l.user.Shell, "-l"}
	}
	dir := o.dir
	if dir == "" {
		dir = workdir(spec, l.user)
	}
	return l.Exec(ctx, launch.Command{
		Argv: argv, Env: environ, Dir: dir,
		UID: l.user.UID, GID: l.user.GID, Groups: l.user.Groups,
		Stdio: o.stdio, Terminal: [3]bool{o.terminal, o.terminal, o.terminal}, Size: o.size,
		Detached: o.detached, Builtin: o.builtin, OnTransfer: o.transfer,
	})
}

// dial connects to what listens inside.
func (l *life) dial(ctx context.Context, network, address string, port uint16) (net.Conn, error) {
	return l.Sandbox.Dial(ctx, launch.DialConfig{
		UID: l.user.UID, GID: l.user.GID, Groups: l.user.Groups,
		Network: network, Address: address, Port: port,
	})
}
