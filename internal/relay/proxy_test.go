package relay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// newProxy returns a fixture whose origins are the proxy listener's.
func newProxy(t testing.TB, change func(*fixture, *Config)) *fixture {
	return newFixture(t, func(f *fixture, cfg *Config) {
		f.origin.Proxy = true
		f.origin.Destination = f.proxy.Addr().(*net.TCPAddr).AddrPort()
		if change != nil {
			change(f, cfg)
		}
	})
}

func TestProxyRefusals(t *testing.T) {
	denial := func(engine flow.Engine, reason flow.Reason) error {
		return &flow.Denial{Engine: engine, Reason: reason, Detail: "the detail"}
	}
	for _, tt := range []struct {
		name    string
		request string
		dial    error // nil: must not be dialled
		status  int
		kind    string
		reason  flow.Reason
		mode    flow.Mode
	}{
		{name: "denied", request: "CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example:443\r\n\r\n", status: 403, kind: "policy_denied", reason: flow.ReasonNoEndpoint, mode: flow.ModeConnect},
		{name: "denied synthetic", request: "CONNECT 198.18.0.2:443 HTTP/1.1\r\n\r\n", status: 403, kind: "policy_denied", reason: flow.ReasonNoEndpoint, mode: flow.ModeConnect},
		{name: "stale synthetic", request: "CONNECT 198.18.0.9:443 HTTP/1.1\r\n\r\n", status: 403, kind: "policy_denied", reason: flow.ReasonStaleAddress, mode: flow.ModeConnect},
		{name: "denied with pipelined bytes", request: "CONNECT denied.example:443 HTTP/1.1\r\n\r\n" + strings.Repeat("x", 10<<10), status: 403, kind: "policy_denied", reason: flow.ReasonNoEndpoint, mode: flow.ModeConnect},
		{name: "ssrf", request: "CONNECT allowed.example:443 HTTP/1.1\r\n\r\n", dial: denial(flow.EngineSSRF, flow.ReasonPrivateAddress), status: 403, kind: "ssrf_denied", reason: flow.ReasonPrivateAddress, mode: flow.ModeConnect},
		{name: "resolve failed", request: "CONNECT allowed.example:443 HTTP/1.1\r\n\r\n", dial: denial(flow.EngineDNS, flow.ReasonResolveFailed), status: 502, kind: "upstream_unreachable", reason: flow.ReasonResolveFailed, mode: flow.ModeConnect},
		{name: "unreachable", request: "CONNECT allowed.example:443 HTTP/1.1\r\n\r\n", dial: errors.New("no route"), status: 502, kind: "upstream_unreachable", reason: flow.ReasonUpstreamUnreachable, mode: flow.ModeConnect},

		{name: "other host field", request: "CONNECT allowed.example:443 HTTP/1.1\r\nHost: denied.example:443\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "other port in host", request: "CONNECT allowed.example:443 HTTP/1.1\r\nHost: allowed.example:80\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "empty host field", request: "CONNECT allowed.example:443 HTTP/1.1\r\nHost:\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "no port", request: "CONNECT allowed.example HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "port 0", request: "CONNECT allowed.example:0 HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "long port", request: "CONNECT allowed.example:65979 HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "leading zero", request: "CONNECT allowed.example:0443 HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "userinfo", request: "CONNECT allowed.example@denied.example:443 HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "trailing dot", request: "CONNECT allowed.example.:443 HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "decimal address", request: "CONNECT 2130706433:443 HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "zone", request: "CONNECT [fe80::1%25lo]:443 HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeConnect},
		{name: "lower-case method", request: "connect allowed.example:443 HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "nul", request: "CONNECT allowed.example\x00.evil:443 HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "bare lf", request: "CONNECT allowed.example:443 HTTP/1.1\n\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "two lengths", request: "CONNECT allowed.example:443 HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "length and encoding", request: "CONNECT allowed.example:443 HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "too long", request: "CONNECT allowed.example:443 HTTP/1.1\r\nA: " + strings.Repeat("a", 9<<10), status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "origin form", request: "GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "absolute form", request: "GET http://allowed.example/a HTTP/1.1\r\nHost: allowed.example\r\n\r\n", status: 501, kind: "forward_proxy_unavailable", reason: flow.ReasonForwardProxy, mode: flow.ModeForward},
		{name: "absolute form with a body", request: "POST HTTP://allowed.example:8080?q HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", status: 501, kind: "forward_proxy_unavailable", reason: flow.ReasonForwardProxy, mode: flow.ModeForward},
		{name: "https in absolute form", request: "GET https://allowed.example/ HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeForward},
		{name: "userinfo in absolute form", request: "GET http://a@allowed.example/ HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest, mode: flow.ModeForward},
		{name: "ftp", request: "GET ftp://allowed.example/ HTTP/1.1\r\n\r\n", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "socks4", request: "\x04\x01\x01\xbb\xc6\x12\x00\x01\x00", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "socks5", request: "\x05\x01\x00", status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "tls", request: hello(sni(allowedHost)), status: 400, kind: "malformed_request", reason: flow.ReasonMalformedRequest},
		{name: "slow", request: "CONNECT allowed", status: 408, kind: "timeout", reason: flow.ReasonTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newProxy(t, func(f *fixture, cfg *Config) {
				if tt.status == http.StatusRequestTimeout {
					cfg.HeadTimeout = 50 * time.Millisecond
				}
				f.dial = func(context.Context, flow.Target, *flow.Decision) (*net.TCPConn, error) {
					if tt.dial == nil { // neither connected to nor looked up
						t.Error("dialled")
						return nil, errors.New("dialled")
					}
					return nil, tt.dial
				}
			})
			client := f.connect(f.proxy)
			send(t, client, tt.request)
			body := readAnswer(t, client, tt.status)
			if body.Error != tt.kind || body.Reason != tt.reason || body.Detail == "" {
				t.Errorf("answer: %+v", body)
			}
			client.Close()
			r := f.record()
			if r.Verdict != flow.Deny || r.Reason != tt.reason || r.Mode != tt.mode || r.Binary != "/usr/bin/curl" || r.Sent+r.Received != 0 {
				t.Errorf("record: %+v", r)
			}
			if body.Hint != r.Hint {
				t.Errorf("hints: %q, recorded %q", body.Hint, r.Hint)
			}
		})
	}
}

// readAnswer reads a whole answer up to the end of the connection.
func readAnswer(t *testing.T, conn net.Conn, status int) (body answer) {
	t.Helper()
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("after %q: %v", all, err)
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(all)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != status || res.Header.Get("Content-Type") != "application/json" || !res.Close || res.ContentLength <= 0 {
		t.Errorf("answer %q", all)
	}
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
		t.Error(err)
	}
	return body
}

func TestProxyDeniedBody(t *testing.T) {
	f := newProxy(t, nil)
	client := f.connect(f.proxy)
	send(t, client, "CONNECT denied.example:443 HTTP/1.1\r\n\r\n")
	want := answer{
		Error: "policy_denied", Detail: "CONNECT denied.example:443 not permitted by policy",
		Reason: flow.ReasonNoEndpoint, Hint: "add an endpoint",
	}
	if diff := cmp.Diff(want, readAnswer(t, client, 403)); diff != "" {
		t.Error(diff)
	}
}

// TestProxyEnds: a client that goes away before it asked leaves a record too.
func TestProxyEnds(t *testing.T) {
	f := newProxy(t, nil)
	f.connect(f.proxy).Close()
	if r := f.record(); r.Reason != flow.ReasonMalformedRequest || r.Engine != flow.EngineProxy {
		t.Errorf("%+v", r)
	}
}

func TestProxyTunnel(t *testing.T) {
	const established = "HTTP/1.1 200 Connection Established\r\n\r\n"
	for _, tt := range []struct{ name, head string }{
		{"http/1.1", "CONNECT allowed.example:443 HTTP/1.1\r\nHost: allowed.example:443\r\n\r\n"},
		{"host without a port", "CONNECT allowed.example:443 HTTP/1.1\r\nHost: Allowed.example\r\n\r\n"},
		{"http/1.0", "CONNECT ALLOWED.example:443 HTTP/1.0\r\n\r\n"},
		{"synthetic address", "CONNECT 198.18.0.1:443 HTTP/1.1\r\nHost: 198.18.0.1:443\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newProxy(t, nil)
			client := f.connect(f.proxy)
			send(t, client, tt.head+"pipelined")
			server := f.accept()
			send(t, server, "greeting")
			expect(t, client, established+"greeting")
			expect(t, server, "pipelined")
			client.CloseWrite()
			expectEOF(t, server)
			server.Close()
			expectEOF(t, client)
			f.want(f.base(func(r *flow.Record) { r.Mode, r.Sent, r.Received = flow.ModeConnect, 9, 8 }))
		})
	}
	t.Run("mismatched sni", func(t *testing.T) {
		f := newProxy(t, nil)
		client := f.connect(f.proxy)
		send(t, client, "CONNECT allowed.example:443 HTTP/1.1\r\n\r\n"+hello(sni(deniedHost)))
		expectReset(t, f.accept())
		if r := f.record(); r.Reason != flow.ReasonSNIMismatch || r.Verdict != flow.Deny || r.Sent != 0 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("captured origin", func(t *testing.T) {
		f := newProxy(t, func(f *fixture, _ *Config) { f.origin.Proxy = false })
		f.expectRefused(f.proxy)
		if r := f.record(); r.Reason != flow.ReasonNoOrigin {
			t.Errorf("%+v", r)
		}
	})
}

// TestRealClients lets curl and openssl speak TLS through both listeners.
func TestRealClients(t *testing.T) {
	for _, name := range []string{"curl", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello from "+r.Host) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // resets are expected
	server.StartTLS()
	defer server.Close()
	dialServer := func(f *fixture, _ *Config) {
		f.dial = func(context.Context, flow.Target, *flow.Decision) (*net.TCPConn, error) {
			return net.DialTCP("tcp", nil, server.Listener.Addr().(*net.TCPAddr))
		}
	}
	run := func(t *testing.T, name string, args ...string) (string, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdin = strings.NewReader("GET / HTTP/1.0\r\nHost: by-openssl\r\n\r\n")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	curl := func(args ...string) []string {
		return append([]string{"-sS", "-k", "--noproxy", "", "-m", "10"}, args...)
	}
	captured := newFixture(t, dialServer)
	proxied := newProxy(t, dialServer)
	proxy := proxied.proxy.Addr().String()
	capture := captured.capture.Addr().(*net.TCPAddr).AddrPort()

	for _, tt := range []struct {
		name    string
		fixture *fixture
		command []string
		want    string
		reason  flow.Reason
	}{
		{"curl by CONNECT", proxied, append([]string{"curl"}, curl("-x", "http://"+proxy, "https://allowed.example/")...), "hello from allowed.example", flow.ReasonAllowed},
		{"curl denied", proxied, append([]string{"curl"}, curl("-x", "http://"+proxy, "https://denied.example/")...), "403", flow.ReasonNoEndpoint},
		{"curl forward", proxied, append([]string{"curl"}, curl("-x", "http://"+proxy, "http://allowed.example/")...), "forward_proxy_unavailable", flow.ReasonForwardProxy},
		{"openssl by CONNECT", proxied, []string{"openssl", "s_client", "-quiet", "-ign_eof", "-proxy", proxy, "-connect", "allowed.example:443", "-servername", allowedHost}, "hello from by-openssl", flow.ReasonAllowed},
		{"openssl with another name", proxied, []string{"openssl", "s_client", "-proxy", proxy, "-connect", "allowed.example:443", "-servername", deniedHost}, "", flow.ReasonSNIMismatch},
		{"curl captured", captured, append([]string{"curl"}, curl("--connect-to", "::"+capture.String(), "https://allowed.example/")...), "hello from allowed.example", flow.ReasonAllowed},
		{"curl captured with another name", captured, append([]string{"curl"}, curl("--connect-to", "::"+capture.String(), "https://denied.example/")...), "", flow.ReasonSNIMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := run(t, tt.command[0], tt.command[1:]...)
			if !strings.Contains(out, tt.want) {
				t.Errorf("%v: %s", err, out)
			}
			if r := tt.fixture.record(); r.Reason != tt.reason || tt.reason == flow.ReasonAllowed && (r.Sent == 0 || r.Received == 0) {
				t.Errorf("%+v", r)
			}
		})
	}
}
