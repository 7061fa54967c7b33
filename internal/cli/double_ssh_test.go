package cli

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/sshd"
)

// sshDouble is an SSH server that runs commands on this host: what the real ssh makes
// of our options, keys and configuration is tried on it.
type sshDouble struct {
	path      string
	host      *sshd.Key
	authority *sshd.Key
	listener  net.Listener
	config    *ssh.ServerConfig
}

func startSSHDouble(path string) (*sshDouble, error) {
	s := &sshDouble{path: path}
	var err error
	if s.host, err = sshd.GenerateKey("host"); err != nil {
		return nil, err
	}
	if s.authority, err = sshd.GenerateKey("authority"); err != nil {
		return nil, err
	}
	authority, err := ssh.ParsePrivateKey(s.authority.Marshal())
	if err != nil {
		return nil, err
	}
	host, err := ssh.ParsePrivateKey(s.host.Marshal())
	if err != nil {
		return nil, err
	}
	checker := &ssh.CertChecker{IsUserAuthority: func(key ssh.PublicKey) bool {
		return bytes.Equal(key.Marshal(), authority.PublicKey().Marshal())
	}}
	s.config = &ssh.ServerConfig{PublicKeyCallback: checker.Authenticate}
	s.config.AddHostKey(host)
	if s.listener, err = net.Listen("unix", path); err != nil {
		return nil, err
	}
	go s.serve()
	return s, nil
}

func (s *sshDouble) stop() { _ = s.listener.Close() }

func (s *sshDouble) certify(sandbox, line string) (string, error) {
	key, err := sshd.ParsePublicKey(line)
	if err != nil {
		return "", err
	}
	return sshd.IssueCertificate(s.authority, key, sshd.CertificateRequest{Sandbox: sandbox})
}

func (s *sshDouble) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		go s.handle(conn)
	}
}

func (s *sshDouble) handle(conn net.Conn) {
	defer conn.Close()
	server, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for request := range channels {
		channel, requests, err := request.Accept()
		if err != nil {
			return
		}
		go session(server.User(), channel, requests)
	}
}

func session(user string, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for request := range requests {
		var word struct{ Text string }
		switch request.Type {
		case "exec", "subsystem":
			_ = ssh.Unmarshal(request.Payload, &word)
			_ = request.Reply(true, nil)
		default:
			_ = request.Reply(false, nil)
			continue
		}
		if request.Type == "subsystem" {
			if server, err := sftp.NewServer(channel); err == nil {
				_ = server.Serve()
			}
			word.Text = "true"
		}
		status := struct{ Code uint32 }{execDouble(user, word.Text, channel)}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(status))
		return
	}
}

func execDouble(user, command string, channel ssh.Channel) uint32 {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SANDBOX=" + user}
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	in, err := cmd.StdinPipe()
	if err != nil {
		return 255
	}
	go func() {
		_, _ = io.Copy(in, channel)
		_ = in.Close()
	}()
	err = cmd.Run()
	if exited := (*exec.ExitError)(nil); errors.As(err, &exited) {
		return uint32(exited.ExitCode())
	}
	if err != nil {
		return 127
	}
	return 0
}
