package e2e

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// BenchmarkService500 has 500 sandboxes on one node: what each takes to be made and
// deleted, what a list of all takes, and what each costs of the agent's memory.
func BenchmarkService500(b *testing.B) {
	const n = 500
	f := newFixture(b)
	s := f.newService("--log-level", "warn")
	before := s.status().GetResidentBytes()
	for b.Loop() {
		took := make([]time.Duration, 0, n)
		start := time.Now()
		for i := range n {
			one := time.Now()
			s.create(fmt.Sprintf("s%03d", i), "default")
			took = append(took, time.Since(one))
		}
		created := time.Since(start)
		slices.Sort(took)
		// What an earlier turn has left counts too: it is used again.
		grown := s.status().GetResidentBytes() - before

		start = time.Now()
		list, err := s.client.Sandboxes.ListSandboxes(b.Context(), &ringfencev1.ListSandboxesRequest{PageSize: 1000})
		if err != nil || len(list.GetSandboxes()) != n {
			b.Fatalf("list: %d sandboxes, %v", len(list.GetSandboxes()), api.ErrorOf(err))
		}
		listed := time.Since(start)

		start = time.Now()
		for i := range n {
			if _, err := s.client.Sandboxes.DeleteSandbox(b.Context(), &ringfencev1.DeleteSandboxRequest{Name: fmt.Sprintf("s%03d", i)}); err != nil {
				b.Fatal(api.ErrorOf(err))
			}
		}
		b.ReportMetric(float64(created.Milliseconds())/n, "create-ms")
		b.ReportMetric(float64(took[n*99/100].Milliseconds()), "create-p99-ms")
		b.ReportMetric(float64(time.Since(start).Milliseconds())/n, "delete-ms")
		b.ReportMetric(float64(listed.Microseconds())/1000, "list-ms")
		b.ReportMetric(float64(grown)/n/1024, "agent-KiB/sandbox")
	}
}

func (s *service) status() *ringfencev1.AgentStatus {
	s.t.Helper()
	status, err := s.client.Agent.GetStatus(s.t.Context(), &ringfencev1.GetStatusRequest{})
	if err != nil {
		s.t.Fatal(api.ErrorOf(err))
	}
	return status
}

// plainSSHD is where the system's sshd listens beside the agent's.
const plainSSHD = 2223

// BenchmarkSSHBesidePlain measures a keystroke's echo and a file's transfer in a
// sandbox and by the system's sshd, by turns. The ratio of the echo is that of the
// delays, of the transfer that of the rates.
func BenchmarkSSHBesidePlain(b *testing.B) {
	f := newFixture(b)
	s := f.newService("--log-level", "warn")
	signer := newSigner(b)
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	s.create("one", "default", func(spec *ringfencev1.SandboxSpec) { spec.SshAuthorizedKeys = []string{key} })
	f.plainSSHD(key)
	clients := map[string]*ssh.Client{
		"plain":  f.dialSSH(plainSSHD, "root", signer),
		"fenced": f.dialSSH(2222, "one", signer),
	}
	b.Run("echo", func(b *testing.B) {
		for b.Loop() {
			delays := map[string]time.Duration{}
			for name, client := range clients {
				delays[name] = echoDelay(b, client)
			}
			b.ReportMetric(float64(delays["plain"].Nanoseconds())/1000, "plain-µs")
			b.ReportMetric(float64(delays["fenced"].Nanoseconds())/1000, "fenced-µs")
			b.ReportMetric(float64(delays["fenced"])/float64(delays["plain"]), "ratio")
		}
	})
	b.Run("sftp", func(b *testing.B) {
		for b.Loop() {
			rates := map[string]float64{}
			for name, client := range clients {
				rates[name] = transferRate(b, client)
			}
			b.ReportMetric(rates["plain"], "plain-MB/s")
			b.ReportMetric(rates["fenced"], "fenced-MB/s")
			b.ReportMetric(rates["fenced"]/rates["plain"], "ratio")
		}
	})
}

// plainSSHD starts the system's sshd in the host namespace, for root and one key.
func (f *fixture) plainSSHD(key string) {
	f.t.Helper()
	sshd := realPath(f.t, "/usr/sbin/sshd")
	dir := f.t.TempDir()
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		f.t.Fatal(err)
	}
	command(f.t, f.env.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host")))
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			f.t.Fatal(err)
		}
		return path
	}
	config := write("config", fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s
StrictModes no
PermitRootLogin yes
UsePAM no
PidFile none
Subsystem sftp internal-sftp
`, plainSSHD, filepath.Join(dir, "host"), write("keys", key+"\n")))
	cmd := f.env.Command(sshd, "-D", "-e", "-f", config)
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// dialSSH logs in to a server of the host namespace, which may just be starting.
func (f *fixture) dialSSH(port uint16, user string, signer ssh.Signer) *ssh.Client {
	f.t.Helper()
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	var conn net.Conn
	var err error
	for range 100 {
		if conn, err = f.env.Dial(f.t.Context(), "tcp", address); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	c, channels, requests, err := ssh.NewClientConn(conn, address.String(), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	client := ssh.NewClient(c, channels, requests)
	f.t.Cleanup(func() { _ = client.Close() })
	return client
}

// echoDelay returns the median time from a key to its echo by the terminal.
func echoDelay(b *testing.B, client *ssh.Client) time.Duration {
	b.Helper()
	session, err := client.NewSession()
	if err != nil {
		b.Fatal(err)
	}
	defer session.Close()
	if err := session.RequestPty("xterm", 24, 80, ssh.TerminalModes{ssh.ECHO: 1}); err != nil {
		b.Fatal(err)
	}
	in, err := session.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := session.Start("echo ready; exec cat > /dev/null"); err != nil {
		b.Fatal(err)
	}
	reader := bufio.NewReader(out)
	if _, err := reader.ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	delays := make([]time.Duration, 1000)
	for i := range delays {
		start := time.Now()
		if _, err := in.Write([]byte("x")); err != nil {
			b.Fatal(err)
		}
		if _, err := reader.ReadByte(); err != nil {
			b.Fatal(err)
		}
		delays[i] = time.Since(start)
	}
	slices.Sort(delays)
	return delays[len(delays)/2]
}

// transferRate returns the rate of a file's way there and back, in MB/s.
func transferRate(b *testing.B, client *ssh.Client) float64 {
	b.Helper()
	const size = 128 << 20
	c, err := sftp.NewClient(client)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	path := "/tmp/ringfence-bench-" + rand.Text()
	defer func() { _ = c.Remove(path) }()
	start := time.Now()
	file, err := c.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := file.ReadFrom(io.LimitReader(zeros{}, size)); err != nil {
		b.Fatal(err)
	}
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
	if file, err = c.Open(path); err != nil {
		b.Fatal(err)
	}
	n, err := file.WriteTo(io.Discard)
	if err != nil || n != size {
		b.Fatalf("%d bytes came back: %v", n, err)
	}
	_ = file.Close()
	return 2 * size / 1e6 / time.Since(start).Seconds()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
