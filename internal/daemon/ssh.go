package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/sshd"
	"github.com/ringfence/ringfence/internal/store"
)

// SSHConfig says how the service is reached by SSH.
type SSHConfig struct {
	Listen string // address and port; empty for none
	Socket string // path of a Unix socket
	// UserCA has public keys, one a line: who holds a certificate by one of them that
	// names a sandbox may come in.
	UserCA []byte
	Limits sshd.Limits
}

// sshServer is the SSH server with its keys and listeners.
type sshServer struct {
	*sshd.Server
	hostKey, authority *sshd.Key
	authorities        []sshd.PublicKey
	address            net.Addr // of TCP; nil for none
}

// The secrets of SSH in the store.
const (
	hostKeyName   = "host_key"
	authorityName = "user_ca"
)

// startSSH serves SSH, with keys that stay the same from start to start.
func (d *Daemon) startSSH(ctx context.Context) error {
	s := &sshServer{}
	var err error
	if s.hostKey, err = d.sshKey(hostKeyName); err != nil {
		return err
	}
	if s.authority, err = d.sshKey(authorityName); err != nil {
		return err
	}
	if s.authorities, err = sshd.ParseAuthorizedKeys(d.cfg.SSH.UserCA); err != nil {
		return fmt.Errorf("read ssh-user-ca: %w", err)
	}
	s.Server, err = sshd.New(sshd.Config{
		Sandboxes: sshSandboxes{d}, HostKeys: []*sshd.Key{s.hostKey}, Sink: sink{d}, Log: d.log, Limits: d.cfg.SSH.Limits,
	})
	if err != nil {
		return err
	}
	d.ssh = s
	d.onStop(s.Shutdown)
	if err := d.listenSSH(ctx, "unix", d.cfg.SSH.Socket); err != nil {
		return err
	}
	if d.cfg.SSH.Listen == "" {
		return nil
	}
	return d.listenSSH(ctx, "tcp", d.cfg.SSH.Listen)
}

// listenSSH serves on one listener until the server is shut down.
func (d *Daemon) listenSSH(ctx context.Context, network, address string) error {
	if network == "unix" {
		if err := api.RemoveStale(address); err != nil {
			return err
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err != nil {
		return err
	}
	if network == "tcp" {
		d.ssh.address = listener.Addr()
	} else if err := d.admitToSocket(address); err != nil {
		return errors.Join(err, listener.Close())
	}
	d.tasks.Go(func() {
		if err := d.ssh.Serve(context.WithoutCancel(ctx), listener); err != nil && !errors.Is(err, sshd.ErrClosed) {
			d.fail(fmt.Errorf("serve SSH at %s: %w", address, err))
		}
	})
	return nil
}

// admitToSocket lets root connect, and the (first) group that may use the API: there its
// members get the certificates to log in with.
func (d *Daemon) admitToSocket(path string) error {
	if len(d.cfg.SocketGroups) == 0 {
		return os.Chmod(path, 0o600)
	}
	return errors.Join(os.Chown(path, 0, int(d.cfg.SocketGroups[0])), os.Chmod(path, 0o660))
}

// sshKey returns a key of the store's, and makes it the first time.
func (d *Daemon) sshKey(name string) (*sshd.Key, error) {
	text, err := d.store.GetSecret(store.Keys, name)
	if err == nil {
		return sshd.ParseKey(text)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	key, err := sshd.GenerateKey("ringfence " + name)
	if err != nil {
		return nil, err
	}
	return key, d.store.PutSecret(store.Keys, name, key.Marshal())
}

// checkKeys refuses keys by which nobody could come in.
func (d *Daemon) checkKeys(lines []string) error {
	if _, err := sshd.ParseAuthorizedKeys([]byte(strings.Join(lines, "\n"))); err != nil {
		return badKeys(err)
	}
	return nil
}

// sshSandboxes is what the SSH server knows of the fleet.
type sshSandboxes struct{ d *Daemon }

// Login implements sshd.Sandboxes.
func (s sshSandboxes) Login(_ context.Context, name string) (*sshd.Login, error) {
	b := s.d.fleet.find(name)
	if b == nil {
		return nil, sshd.ErrNoSandbox
	}
	message, _, _ := s.d.fleet.look(b)
	keys, err := sshd.ParseAuthorizedKeys([]byte(strings.Join(message.GetSpec().GetSshAuthorizedKeys(), "\n")))
	if err != nil {
		return nil, err
	}
	return &sshd.Login{
		Keys: keys, Authorities: s.d.ssh.authorities,
		Own: s.d.ssh.authority.Public(), Principal: message.GetId(),
	}, nil
}

// Sandbox implements sshd.Sandboxes: it waits for the fence.
func (s sshSandboxes) Sandbox(ctx context.Context, name string) (sshd.Sandbox, error) {
	for {
		_, changed := s.d.fleet.all()
		b := s.d.fleet.find(name)
		if b == nil {
			return nil, sshd.ErrNoSandbox
		}
		if message, l, _ := s.d.fleet.look(b); l != nil {
			return sshSandbox{s.d, b, l}, nil
		} else if isOver(message) {
			return nil, notReady(name)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// sshSandbox is one sandbox, as long as its present processes live.
type sshSandbox struct {
	d *Daemon
	b *box
	l *life
}

// Exec implements sshd.Sandbox.
func (s sshSandbox) Exec(ctx context.Context, c sshd.Command) (*launch.Process, error) {
	o := order{requested: c.Env, terminal: c.Terminal, size: c.Size, stdio: c.Stdio}
	if c.Kind == sshd.KindSFTP {
		o.builtin, o.transfer = launch.BuiltinSFTP, c.OnTransfer
		return s.d.exec(ctx, s.b, s.l, o)
	}
	var err error
	if o.argv, err = c.Argv(s.l.user.Shell); err != nil {
		return nil, err
	}
	return s.d.exec(ctx, s.b, s.l, o)
}

// Dial implements sshd.Sandbox.
func (s sshSandbox) Dial(ctx context.Context, network, address string, port uint16) (net.Conn, error) {
	return s.l.dial(ctx, network, address, port)
}

// Done implements sshd.Sandbox.
func (s sshSandbox) Done() <-chan struct{} { return s.l.ending }

// certificateLife is for how long a certificate of ringfence ssh lets its holder in.
const certificateLife = 5 * time.Minute
