package testenv

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func addr(text string) netip.Addr         { return netip.MustParseAddr(text) }
func addrPort(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// TestEnvLeavesNothing opens and closes a used Env with the leak check around it.
func TestEnvLeavesNothing(t *testing.T) {
	CheckLeaks(t, "testenv")
	env := New(t)
	env.Zone("allowed.test", addr("198.51.100.10"))
	out, err := env.Command("curl", "-sS", "--max-time", "5", "http://198.51.100.10/").CombinedOutput()
	if err != nil {
		t.Fatalf("curl: %v: %s", err, out)
	}
	if got, want := string(out), "hello from 198.51.100.10\n"; got != want {
		t.Errorf("curl = %q, want %q", got, want)
	}
	sleeper := env.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = sleeper.Wait() }()
}

// TestEcho talks to the echo services at addresses of every class: all of them
// live in the internet namespace.
func TestEcho(t *testing.T) {
	env := New(t)
	for _, address := range []string{
		"203.0.113.99", "198.51.100.1", "192.0.2.7", "10.1.2.3", "172.16.9.9", "192.168.1.1",
		"100.64.0.1", "198.18.0.1", Metadata, "2001:db8::1", "2001:db8:1::77", "fd00::1", "64:ff9b::a00:1",
	} {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(network+" "+address, func(t *testing.T) {
				echoes(t, env, network, netip.AddrPortFrom(addr(address), PortEcho))
			})
		}
	}
}

func echoes(t *testing.T, env *Env, network string, to netip.AddrPort) {
	t.Helper()
	conn, err := env.Dial(t.Context(), network, to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	// A connected UDP socket only takes answers from the address it asked.
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ping" {
		t.Errorf("echo from %v = %q, %v", to, got, err)
	}
}

func TestBannerThenEcho(t *testing.T) {
	env := New(t)
	conn, err := env.Dial(t.Context(), "tcp", addrPort("198.51.100.25:25"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	banner := make([]byte, len(Banner))
	if _, err := io.ReadFull(conn, banner); err != nil || string(banner) != Banner {
		t.Fatalf("banner = %q, %v", banner, err)
	}
	if _, err := io.WriteString(conn, "NOOP\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(conn); err != nil || string(rest) != "NOOP\r\n" {
		t.Errorf("echo = %q, %v", rest, err)
	}
}

// TestHTTPS checks certificates for names and for addresses, and the bodies.
func TestHTTPS(t *testing.T) {
	env := New(t)
	client := httpsClient(t, env, addrPort("203.0.113.80:443"))
	for _, host := range []string{"allowed.test", "api.example.com", "203.0.113.80"} {
		body := do(t, client, http.MethodGet, "https://"+host+"/", "")
		if want := "hello from " + host + "\n"; body != want {
			t.Errorf("GET / of %s = %q, want %q", host, body, want)
		}
	}
	if body := do(t, client, http.MethodGet, "https://allowed.test/bytes/100000", ""); body != strings.Repeat("0", 100000) {
		t.Errorf("GET /bytes/100000 = %d bytes", len(body))
	}
	if body := do(t, client, http.MethodPost, "https://allowed.test/echo", "abc"); body != "abc" {
		t.Errorf("POST /echo = %q", body)
	}
	got := env.Requests()
	if len(got) != 5 {
		t.Fatalf("Requests = %v, want 5", got)
	}
	want := Request{Method: "GET", Host: "api.example.com", Path: "/", Proto: "HTTP/1.1", SNI: "api.example.com",
		Local: "203.0.113.80:443", Remote: got[1].Remote}
	if diff := cmp.Diff(want, got[1]); diff != "" {
		t.Errorf("second request (-want +got):\n%s", diff)
	}
}

func httpsClient(t *testing.T, env *Env, to netip.AddrPort) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(env.CA())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return env.Dial(ctx, network, to)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func do(t *testing.T, client *http.Client, method, url, body string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestGitClone(t *testing.T) {
	Require(t, "git")
	env := New(t)
	dir := filepath.Join(t.TempDir(), "clone")
	git := env.Command("git", "-c", "http.sslCAInfo="+env.CA(),
		"clone", "--quiet", "https://198.51.100.7/owner/project.git", dir)
	if out, err := git.CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v: %s", err, out)
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README"))
	if err != nil || string(readme) != "hello\n" {
		t.Errorf("README = %q, %v", readme, err)
	}
}

// TestWitness looks for what arrived and what did not, by TCP, UDP and ICMP.
func TestWitness(t *testing.T) {
	env := New(t)
	seen := addrPort("10.1.2.3:7")
	echoes(t, env, "tcp", seen)
	echoes(t, env, "udp", addrPort("[2001:db8:5::5]:443"))
	env.NothingArrived(t, To(addr(Metadata)))

	flows, err := env.Arrived(ToPort(seen))
	if err != nil || len(flows) != 1 {
		t.Fatalf("Arrived = %v, %v, want one flow", flows, err)
	}
	if f := flows[0]; f.Protocol != unix.IPPROTO_TCP || string(f.Payload) != "ping" || f.Packets < 3 {
		t.Errorf("flow = %v, payload %q", f, f.Payload)
	}
	all, err := env.Flows()
	if err != nil || len(all) != 2 {
		t.Errorf("Flows = %v, %v, want two", all, err)
	}
	if taken, err := env.TakeFlows(); err != nil || len(taken) != len(all) {
		t.Errorf("TakeFlows = %v, %v, want two", taken, err)
	}
	echoes(t, env, "udp", seen)
	if after, err := env.Flows(); err != nil || len(after) != 1 || after[0].Destination != seen {
		t.Errorf("Flows = %v, %v, want the one that came later", after, err)
	}
}

func TestServe(t *testing.T) {
	env := New(t)
	err := env.Serve(5432, func(conn net.Conn) { _, _ = io.WriteString(conn, "custom") })
	if err != nil {
		t.Fatal(err)
	}
	conn, err := env.Dial(t.Context(), "tcp", addrPort("[2001:db8::5]:5432"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "custom" {
		t.Errorf("read = %q, %v", got, err)
	}
}

// TestNothingElseIsReachable: the host namespace has no way to the machine's own
// network.
func TestNothingElseIsReachable(t *testing.T) {
	env := New(t)
	out, err := env.Command("ip", "-o", "link").Output()
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(out, []byte("\n")); n != 2 {
		t.Errorf("host namespace has %d links, want lo and the veth:\n%s", n, out)
	}
}
