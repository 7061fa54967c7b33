package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/spf13/cobra"
)

// newSSHProxy is ssh's ProxyCommand: ssh knows no Unix sockets.
func newSSHProxy(env Env) *cobra.Command {
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:    "ssh-proxy [SOCKET]",
		Short:  "Copy between the standard streams and the agent's SSH server",
		Hidden: true,
		Args:   theseArgs("[SOCKET]"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			path := ""
			if len(args) > 0 {
				path = args[0]
			} else if path, err = r.sshSocket(cmd.Context()); err != nil {
				return err
			}
			return proxy(cmd.Context(), env, path)
		},
	}
	cmd.SetFlagErrorFunc(unreadFlags)
	r.addTo(cmd.Flags())
	return cmd
}

// proxy copies both ways until the server has nothing more to say. That ssh has not, it
// hands on, and waits.
func proxy(ctx context.Context, env Env, path string) error {
	dialed, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return &statusError{fmt.Errorf("connect to the agent's SSH server: %w", err), serviceAbsent}
	}
	defer dialed.Close()
	conn, ok := dialed.(*net.UnixConn)
	if !ok {
		return errors.New("connect to the agent's SSH server: no Unix socket")
	}
	go func() {
		_, _ = io.Copy(conn, env.Stdin) // it ends when the process does
		_ = conn.CloseWrite()
	}()
	_, err = io.Copy(env.Stdout, conn)
	if errors.Is(err, syscall.EPIPE) {
		err = nil // ssh has gone
	}
	return err
}
