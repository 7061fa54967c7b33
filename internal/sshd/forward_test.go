package sshd

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/testenv"
)

func ownerOf(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

type directTCP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// refusal of a channel, or nil.
func openDirect(client *ssh.Client, host string, port uint32) (ssh.Channel, *ssh.OpenChannelError) {
	channel, requests, err := client.OpenChannel("direct-tcpip", ssh.Marshal(directTCP{host, port, "127.0.0.1", 1}))
	if err == nil {
		go ssh.DiscardRequests(requests)
		return channel, nil
	}
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) {
		return nil, &ssh.OpenChannelError{Message: err.Error()}
	}
	return nil, refused
}

// Only what listens in the sandbox itself is reached; a port is looked at in full.
func TestForwardTargets(t *testing.T) {
	testenv.Require(t, "python3")
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	client := f.mustDial("alpha")
	// An echo server inside, on a port of both families, and one outside.
	s, err := client.NewSession()
	must(t, err)
	out, err := s.StdoutPipe()
	must(t, err)
	must(t, s.Start(`exec python3 -u -c '
import socket, threading
def serve(l):
    while True:
        c, _ = l.accept()
        d = c.recv(100); c.sendall(b"inside " + d); c.close()
four = socket.create_server(("127.0.0.1", 2222)); six = socket.create_server(("::1", 2223), family=socket.AF_INET6)
unix = socket.socket(socket.AF_UNIX); unix.bind("sock"); unix.listen()
print("ready")
for l in (six, unix): threading.Thread(target=serve, args=(l,)).start()
serve(four)'`))
	ready := make([]byte, 6)
	_, err = io.ReadFull(out, ready)
	must(t, err)

	outside, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer outside.Close()
	hostPort := uint32(outside.Addr().(*net.TCPAddr).Port)

	answer := func(channel ssh.Channel) string {
		t.Helper()
		defer channel.Close()
		_, err := io.WriteString(channel, "hello")
		must(t, err)
		must(t, channel.CloseWrite())
		got, err := io.ReadAll(channel)
		must(t, err)
		return string(got)
	}
	for _, to := range []struct {
		host string
		port uint32
	}{{"127.0.0.1", 2222}, {"localhost", 2222}, {"localhost", 2223}, {"LOCALHOST", 2222}, {"::1", 2223}, {"::ffff:127.0.0.1", 2222}} {
		channel, refused := openDirect(client, to.host, to.port)
		if refused != nil {
			t.Errorf("%v: %v", to, refused)
			continue
		}
		if got := answer(channel); got != "inside hello" {
			t.Errorf("%v answers %q", to, got)
		}
	}
	for _, path := range []string{f.home + "/sock"} {
		channel, requests, err := client.OpenChannel("direct-streamlocal@openssh.com", ssh.Marshal(struct {
			Path, Reserved string
			Port           uint32
		}{path, "", 0}))
		must(t, err)
		go ssh.DiscardRequests(requests)
		if got := answer(channel); got != "inside hello" {
			t.Errorf("%s answers %q", path, got)
		}
	}

	for _, to := range []struct {
		host string
		port uint32
		why  ssh.RejectionReason
	}{
		{"127.0.0.1", 65536 + 2222, ssh.Prohibited}, {"127.0.0.1", 0, ssh.Prohibited}, {"127.0.0.1", 65536, ssh.Prohibited}, {"127.0.0.1", 1<<32 - 1, ssh.Prohibited},
		{"127.0.0.1", 15001, ssh.Prohibited}, {"localhost", 15053, ssh.Prohibited}, {"::1", 15128, ssh.Prohibited}, {"127.0.0.1", 53, ssh.Prohibited},
		{"127.0.0.53", 15001, ssh.Prohibited},
		{"192.0.2.1", 80, ssh.Prohibited}, {"example.com", 80, ssh.Prohibited}, {"0.0.0.0", 2222, ssh.Prohibited}, {"::", 2223, ssh.Prohibited},
		{"169.254.169.254", 80, ssh.Prohibited}, {"198.18.0.1", 2222, ssh.Prohibited}, {"", 2222, ssh.Prohibited}, {"127.1", 2222, ssh.Prohibited},
		{"2130706433", 2222, ssh.Prohibited}, {"::1%lo", 2223, ssh.Prohibited}, {"localhost.", 2222, ssh.Prohibited}, {"127.0.0.1\x00.example.com", 2222, ssh.Prohibited},
		{"fe80::1", 2223, ssh.Prohibited}, {"alpha", 2222, ssh.Prohibited}, {"*", 2222, ssh.Prohibited},
		{"127.0.0.1", hostPort, ssh.ConnectionFailed}, // the host's loopback is not the sandbox's
		{"127.0.0.1", 2299, ssh.ConnectionFailed},
	} {
		channel, refused := openDirect(client, to.host, to.port)
		if refused == nil {
			channel.Close()
			t.Errorf("%q port %d is reached", to.host, to.port)
			continue
		}
		if refused.Reason != to.why {
			t.Errorf("%q port %d: %v, want %v", to.host, to.port, refused, to.why)
		}
	}
	for _, path := range []string{"", "sock", "@abstract", "\x00abstract", strings.Repeat("/x", 60), "/run/ringfence.sock\x00"} {
		_, _, err := client.OpenChannel("direct-streamlocal@openssh.com", ssh.Marshal(struct {
			Path, Reserved string
			Port           uint32
		}{path, "", 0}))
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
			t.Errorf("socket %q: %v", path, err)
		}
	}
	if _, _, err := client.OpenChannel("direct-streamlocal@openssh.com", ssh.Marshal(struct {
		Path, Reserved string
		Port           uint32
	}{f.socket, "", 0})); err == nil {
		t.Error("the agent's own socket is reached")
	}
	record := f.ledger.await(t, flow.ReasonSSHForward, "67758 is no port")
	if record.Verdict.Passes() || record.Host != "127.0.0.1" || record.Port != 0 || record.Mode != flow.ModeSSH {
		t.Errorf("%+v", record)
	}
	_ = s.Signal(ssh.SIGKILL)
}

// What leads to the client's side is never granted, and other channels are not known.
func TestNothingLeadsOut(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	client := f.mustDial("alpha")
	if _, err := client.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("a port can be listened on")
	}
	if _, err := client.ListenUnix("/tmp/x.sock"); err == nil {
		t.Error("a socket can be listened on")
	}
	f.ledger.await(t, flow.ReasonSSHRefused, "tcpip-forward")
	f.ledger.await(t, flow.ReasonSSHRefused, "streamlocal-forward")
	for _, kind := range []string{"x11", "auth-agent@openssh.com", "tun@openssh.com", "forwarded-tcpip", "", strings.Repeat("x", 10000)} {
		_, _, err := client.OpenChannel(kind, nil)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.UnknownChannelType {
			t.Errorf("%.20q: %v", kind, err)
		}
	}
	for _, payload := range [][]byte{nil, {0}, []byte("\xff\xff\xff\xff"), ssh.Marshal(struct{ A string }{"127.0.0.1"})} {
		for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com"} {
			if _, _, err := client.OpenChannel(kind, payload); err == nil {
				t.Errorf("%s with %q is served", kind, payload)
			}
		}
	}
	for _, option := range []string{"-R", "-A"} {
		args := []string{option}
		if option == "-R" {
			args = append(args, "0:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes")
		}
		r := f.ssh(append(args, "alpha@node", "echo agent=$SSH_AUTH_SOCK")...)
		if option == "-R" && (r.code != 255 || !strings.Contains(r.err, "remote port forwarding failed")) {
			t.Errorf("%+v", r)
		}
		if option == "-A" && r.out != "agent=\n" {
			t.Errorf("%+v", r)
		}
	}
	if r := f.ssh("alpha@node", "echo still"); r.out != "still\n" {
		t.Errorf("%+v", r)
	}
}

// no-more-sessions is kept to.
func TestNoMoreSessions(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	client := f.mustDial("alpha")
	if ok, _, err := client.SendRequest("no-more-sessions@openssh.com", true, nil); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if _, err := client.NewSession(); err == nil {
		t.Error("there is one more")
	}
}

