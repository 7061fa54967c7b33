package sshd

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/flow"
)

// A flood of failed logins is counted and not written line by line, is not heard any
// more after a while, and others are.
func TestFloodOfFailedLogins(t *testing.T) {
	f := newFixture(t, Limits{Failures: 40, Forgive: time.Hour})
	f.sandbox("alpha")
	stranger := newKey(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				if _, err := f.dial("alpha", ssh.PublicKeys(stranger.signer)); err == nil {
					t.Error("a stranger logs in")
				}
			}
		})
	}
	all.Wait()
	until(t, "all to be gone", func() bool { return f.server.Stats().Conns == 0 })
	stats := f.server.Stats()
	if stats.Refused < 40 || stats.Refused > 40+8 || stats.Unheard < 150 || stats.Refused+stats.Unheard != 200 {
		t.Errorf("%+v", stats)
	}
	if _, err := f.dial("alpha"); err == nil {
		t.Error("the source is heard again at once, with the right key")
	}
	// The Unix socket is another source.
	conn, err := net.Dial("unix", f.socket)
	must(t, err)
	defer conn.Close()
	_, _, _, err = ssh.NewClientConn(conn, "", &ssh.ClientConfig{
		User: "alpha", Auth: []ssh.AuthMethod{ssh.PublicKeys(f.user.signer)}, HostKeyCallback: ssh.FixedHostKey(f.host.signer.PublicKey()),
	})
	must(t, err)
	f.server.refusals.flush()
	records := f.ledger.find(func(r *flow.Record) bool { return r.Reason == flow.ReasonSSHRefused })
	total := uint64(0)
	for _, r := range records {
		total += max(r.Count, 1)
	}
	if len(records) > refusedAtOnce+1 || total != 201 {
		t.Errorf("%d records stand for %d", len(records), total)
	}
}

func TestThrottle(t *testing.T) {
	throttle, err := newThrottle(3, 10*time.Second)
	must(t, err)
	now := time.Now()
	from := sourceOfAddr(netip.MustParseAddr("192.0.2.1"))
	for i := range 3 {
		if !throttle.allows(from, now) {
			t.Fatalf("refused after %d failures", i)
		}
		throttle.failed(from, now)
	}
	if throttle.allows(from, now) {
		t.Error("allowed after three")
	}
	if !throttle.allows(from, now.Add(10*time.Second)) {
		t.Error("refused after one was forgiven")
	}
	for range 1000 {
		throttle.failed(from, now)
	}
	if !throttle.allows(from, now.Add(40*time.Second)) {
		t.Error("more failures than there may be make the wait longer")
	}
	// A flood of sources has a bound, and its networks of 64 bits are one source each.
	for i := range 3 * maxSources {
		throttle.failed(sourceOfAddr(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})), now)
	}
	if n := throttle.sources.Len(); n != maxSources {
		t.Errorf("%d sources are remembered", n)
	}
	a, b, c := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff:1%eth0"), netip.MustParseAddr("2001:db8:0:1::1")
	if sourceOfAddr(a) != sourceOfAddr(b) || sourceOfAddr(a) == sourceOfAddr(c) {
		t.Error("IPv6 sources are not told apart by 64 bits")
	}
	if sourceOfAddr(netip.MustParseAddr("::ffff:192.0.2.1")) != from {
		t.Error("a mapped address is another source")
	}
}

// Connections that never log in are bounded in number and time.
func TestHalfOpenHandshakes(t *testing.T) {
	f := newFixture(t, Limits{Handshakes: 40, HandshakesPerSource: 16, Grace: 2 * time.Second, Failures: 1000})
	f.sandbox("alpha")
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for i := range 60 {
		conn, err := net.Dial("tcp", f.addr.String())
		must(t, err)
		held = append(held, conn)
		switch i % 4 { // each says something else, and no more
		case 1:
			fmt.Fprint(conn, "SSH-2.0-x")
		case 2:
			fmt.Fprint(conn, "SSH-2.0-x\r\n")
		case 3:
			fmt.Fprint(conn, "SSH-2.0-x\r\n\x00\x00\xff\xff\x01\x14")
		}
	}
	until(t, "all to be accepted", func() bool { return f.server.Stats().Accepted == 60 })
	if stats := f.server.Stats(); stats.Handshakes > 16 || stats.Unheard < 44 {
		t.Errorf("%+v", stats)
	}
	start := time.Now()
	until(t, "their time to be up", func() bool { return f.server.Stats().Conns == 0 })
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("they may take %v", took)
	}
	if r := f.ssh("alpha@node", "echo in"); r.out != "in\n" {
		t.Errorf("afterwards: %+v", r)
	}
}

// What comes before the handshake, or in the place of it, ends the connection.
func TestGarbage(t *testing.T) {
	f := newFixture(t, Limits{Failures: 1000})
	f.sandbox("alpha")
	for name, text := range map[string]string{
		"HTTP":           "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + strings.Repeat("x", 300),
		"long version":   "SSH-2.0-" + strings.Repeat("x", 100_000),
		"zeros":          string(make([]byte, 100_000)),
		"huge packet":    "SSH-2.0-x\r\n\xff\xff\xff\xff" + strings.Repeat("x", 100_000),
		"packet of none": "SSH-2.0-x\r\n\x00\x00\x00\x00\x00\x00\x00\x00",
		"old protocol":   "SSH-1.5-x\r\n" + strings.Repeat("x", 100),
	} {
		conn, err := net.Dial("tcp", f.addr.String())
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(patience)))
		_, _ = io.WriteString(conn, text)
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: the connection is open", name)
		}
		conn.Close()
	}
	if r := f.ssh("alpha@node", "echo in"); r.out != "in\n" {
		t.Errorf("afterwards: %+v", r)
	}
}

// Limits on connections, sessions and channels hold, and what is given back can be had
// again.
func TestLimits(t *testing.T) {
	f := newFixture(t, Limits{
		ChannelsPerConn: 5,
		PerSandbox:      Quota{Conns: 3, Sessions: 8, Channels: 50},
		PerSource:       Quota{Conns: 4, Sessions: 50, Channels: 50},
	})
	f.sandbox("alpha")
	f.sandbox("beta")
	sessions := func(client *ssh.Client) (n int) {
		for {
			s, err := client.NewSession()
			if err != nil {
				if !strings.Contains(err.Error(), "too many channels") {
					t.Error(err)
				}
				return n
			}
			must(t, s.Start("exec sleep 1000"))
			n++
		}
	}
	a, b := f.mustDial("alpha"), f.mustDial("alpha")
	if n := sessions(a); n != 5 {
		t.Errorf("%d channels on one connection", n)
	}
	if n := sessions(b); n != 3 {
		t.Errorf("%d sessions more in one sandbox", n)
	}
	c, d := f.mustDial("alpha"), f.mustDial("alpha")
	if _, err := d.NewSession(); err == nil || !strings.Contains(err.Error(), "too many connections") {
		t.Errorf("a fourth connection to one sandbox: %v", err)
	}
	d.Close()
	until(t, "the end of the fourth", func() bool { return f.server.Stats().Conns == 3 })
	e := f.mustDial("beta")
	if _, err := e.NewSession(); err != nil {
		t.Errorf("another sandbox: %v", err)
	}
	g := f.mustDial("beta")
	if _, err := g.NewSession(); err == nil {
		t.Error("a fifth connection of one source")
	}
	for _, client := range []*ssh.Client{a, b, c, e, g} {
		client.Close()
	}
	until(t, "all to be gone", func() bool { return f.server.Stats().Conns == 0 })
	if n := sessions(f.mustDial("alpha")); n != 5 {
		t.Errorf("%d channels afterwards", n)
	}
	if f.server.Stats().Denied == 0 {
		t.Error("nothing was counted")
	}
}

// Thousands of channels, and a client that closes none of what ended, cost no more than
// the limit allows.
func TestThousandsOfChannels(t *testing.T) {
	f := newFixture(t, Limits{ChannelsPerConn: 20})
	f.sandbox("alpha")
	client := f.mustDial("alpha")
	before := runtime.NumGoroutine()
	var opened, refused int
	for range 3000 {
		_, requests, err := client.OpenChannel("session", nil)
		if err != nil {
			refused++
			continue
		}
		opened++
		go ssh.DiscardRequests(requests)
	}
	if opened != 20 || refused != 2980 {
		t.Errorf("%d opened, %d refused", opened, refused)
	}
	if grown := runtime.NumGoroutine() - before; grown > 20*4+20 {
		t.Errorf("%d more goroutines", grown)
	}
	if r := f.ssh("alpha@node", "echo in"); r.out != "in\n" {
		t.Errorf("another connection: %+v", r)
	}
}

// Requests of any size and shape get an answer, and the connection lives.
func TestHugeRequests(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	client := f.mustDial("alpha")
	huge := bytes.Repeat([]byte("x"), 200_000)
	for _, name := range []string{"env", "pty-req", "window-change", "signal", "subsystem", "exec", "unknown"} {
		for _, payload := range [][]byte{nil, huge, ssh.Marshal(struct{ A, B string }{string(huge[:100_000]), string(huge[:90_000])}), []byte("\xff\xff\xff\xffx")} {
			channel, requests, err := client.OpenChannel("session", nil)
			must(t, err)
			go ssh.DiscardRequests(requests)
			ok, err := channel.SendRequest(name, true, payload)
			if err != nil || ok {
				t.Errorf("%s with %d bytes: %v, %v", name, len(payload), ok, err)
			}
			channel.Close()
		}
	}
	// A command line that no program can be given.
	s, err := client.NewSession()
	must(t, err)
	var said bytes.Buffer
	s.Stderr = &said
	err = s.Run("true " + string(huge))
	if exit, ok := err.(*ssh.ExitError); !ok || exit.ExitStatus() == 0 || !strings.Contains(said.String(), "ringfence:") {
		t.Errorf("%v, %q", err, said.String())
	}
	s, err = client.NewSession()
	must(t, err)
	if out, err := s.Output("echo in"); string(out) != "in\n" {
		t.Errorf("afterwards: %q, %v", out, err)
	}
}

// A client that stops reading holds up itself alone.
func TestClientThatDoesNotRead(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	client := f.mustDial("alpha")
	stuck, err := client.NewSession()
	must(t, err)
	out, err := stuck.StdoutPipe() // never read: its window fills
	must(t, err)
	must(t, stuck.Start("cat /dev/zero"))
	for range 3 {
		s, err := client.NewSession()
		must(t, err)
		if out, err := s.Output("echo in"); string(out) != "in\n" {
			t.Errorf("%q, %v", out, err)
		}
	}
	must(t, stuck.Signal(ssh.SIGKILL))
	_, _ = io.Copy(io.Discard, out)
	if err := stuck.Wait(); err == nil {
		t.Error("it ended well")
	}
}

// A client that is silent is asked, and let go of; one on whose channels nothing moves
// is let go of too.
func TestSilentAndIdle(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		f := newFixture(t, Limits{KeepAlive: 100 * time.Millisecond, KeepAliveMost: 3})
		f.sandbox("alpha")
		client := f.mustDial("alpha") // answers
		cmd := f.command("ssh", "alpha@node", "echo ready; exec cat")
		out, err := cmd.StdoutPipe()
		must(t, err)
		in, err := cmd.StdinPipe()
		must(t, err)
		defer in.Close()
		must(t, cmd.Start())
		_, err = bufio.NewReader(out).ReadString('\n')
		must(t, err)
		must(t, cmd.Process.Signal(syscall.SIGSTOP))
		until(t, "the end of the silent one", func() bool { return f.server.Stats().Conns == 1 })
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		if _, err := client.NewSession(); err != nil {
			t.Errorf("who answers: %v", err)
		}
	})
	t.Run("idle", func(t *testing.T) {
		f := newFixture(t, Limits{Idle: 700 * time.Millisecond})
		f.sandbox("alpha")
		busy, idle := f.mustDial("alpha"), f.mustDial("alpha")
		s, err := busy.NewSession()
		must(t, err)
		var out bytes.Buffer
		s.Stdout = &out
		must(t, s.Start("for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.2; done"))
		start := time.Now()
		_ = idle.Wait()
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the idle one may last for %v", took)
		}
		if err := s.Wait(); err != nil || !strings.HasSuffix(out.String(), "10\n") {
			t.Errorf("the busy one: %q, %v", out.String(), err)
		}
	})
}
