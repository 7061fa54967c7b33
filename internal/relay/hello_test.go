package relay

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// hello builds the record of a ClientHello with the given extensions.
func hello(extensions ...string) string {
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + sized(2, "\x13\x01") + "\x01\x00" + sized(2, strings.Join(extensions, ""))
	return "\x16\x03\x01" + sized(2, "\x01"+sized(3, body))
}

func sni(name string) string {
	return "\x00\x00" + sized(2, sized(2, "\x00"+sized(2, name)))
}

func sized(bytes int, s string) string {
	var length string
	for i := bytes - 1; i >= 0; i-- {
		length += string([]byte{byte(len(s) >> (8 * i))})
	}
	return length + s
}

const greaseECH = "\xfe\x0d\x00\x02\x00\x00"

func TestHello(t *testing.T) {
	literal := netip.MustParseAddrPort("192.0.2.7:443")
	for _, tt := range []struct {
		name   string
		dest   netip.AddrPort // the default is the synthetic address
		bytes  string
		fin    bool        // end after the bytes
		reason flow.Reason // empty: it passes
	}{
		{name: "matching", bytes: hello(sni(allowedHost))},
		{name: "matching in upper case", bytes: hello(sni("ALLOWED.example"))},
		{name: "followed by early data", bytes: hello(sni(allowedHost)) + "\x17\x03\x03\x00\x01x"},
		{name: "absent", bytes: hello("\x00\x2b\x00\x03\x02\x03\x04")},
		{name: "matching beside ech", bytes: hello(greaseECH, sni(allowedHost))},
		{name: "mismatch", bytes: hello(sni(deniedHost)), reason: flow.ReasonSNIMismatch},
		{name: "mismatch beside ech", bytes: hello(greaseECH, sni("cloudflare-ech.com")), reason: flow.ReasonSNIMismatch},
		{name: "subdomain", bytes: hello(sni("a." + allowedHost)), reason: flow.ReasonSNIMismatch},
		{name: "trailing dot", bytes: hello(sni(allowedHost + ".")), reason: flow.ReasonSNIMismatch},
		{name: "nul", bytes: hello(sni(allowedHost + "\x00.evil")), reason: flow.ReasonSNIMismatch},
		{name: "kelvin sign", bytes: hello(sni("\u212a.example")), reason: flow.ReasonSNIMismatch},
		{name: "literal for a name", bytes: hello(sni("198.18.0.1")), reason: flow.ReasonSNIMismatch},
		{name: "literal, absent", dest: literal, bytes: hello("\x00\x2b\x00\x03\x02\x03\x04")},
		{name: "literal, the same", dest: literal, bytes: hello(sni("192.0.2.7"))},
		{name: "literal, another", dest: literal, bytes: hello(sni("192.0.2.8")), reason: flow.ReasonSNIMismatch},
		{name: "literal, a name", dest: literal, bytes: hello(sni(allowedHost)), reason: flow.ReasonSNIMismatch},
		{name: "duplicate", bytes: hello(sni(allowedHost), sni(deniedHost)), reason: flow.ReasonMalformedHello},
		{name: "alert before", bytes: "\x15\x03\x01\x00\x02\x01\x00" + hello(sni(deniedHost)), reason: flow.ReasonMalformedHello},
		{name: "cut short by the end", bytes: hello(sni(allowedHost))[:40], fin: true, reason: flow.ReasonMalformedHello},
		{name: "one byte and the end", bytes: "\x16", fin: true, reason: flow.ReasonMalformedHello},
		{name: "slow", bytes: hello(sni(allowedHost))[:40], reason: flow.ReasonTimeout},
		{name: "not tls", bytes: "SSH-2.0-x\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture, cfg *Config) {
				f.decide = func(*flow.Identity, flow.Target) *flow.Decision { return allowDecision }
				if tt.dest.IsValid() {
					f.origin.Destination = tt.dest
				}
				if tt.reason == flow.ReasonTimeout {
					cfg.HelloTimeout = 50 * time.Millisecond
				}
			})
			client, server := f.pair()
			send(t, server, "greeting") // never waits
			expect(t, client, "greeting")
			send(t, client, tt.bytes)
			if tt.fin {
				client.CloseWrite()
			}
			if tt.reason == "" {
				expect(t, server, tt.bytes)
				send(t, client, "then")
				expect(t, server, "then")
				return
			}
			expectReset(t, server) // and not one byte before
			expectReset(t, client)
			if r := f.record(); r.Verdict != flow.Deny || r.Engine != flow.EngineSNI || r.Reason != tt.reason || r.Sent != 0 || r.Received != 8 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestHelloInPieces: segments and records may be cut anywhere.
func TestHelloInPieces(t *testing.T) {
	f := newFixture(t, nil)
	whole := hello(sni(allowedHost))
	records := ""
	for rest := whole[5:]; rest != ""; {
		n := min(9, len(rest))
		records += "\x16\x03\x01" + sized(2, rest[:n])
		rest = rest[n:]
	}
	for _, text := range []string{whole, records} {
		client, server := f.pair()
		for i := range len(text) {
			send(t, client, text[i:i+1])
			if i%16 == 0 {
				time.Sleep(time.Millisecond) // TCP_NODELAY is on: segments of their own
			}
		}
		expect(t, server, text)
		client.Close()
		server.Close()
		f.want(f.base(func(r *flow.Record) { r.Sent = int64(len(text)) }))
	}
}

// TestSlowHelloHalfClosed: an upstream that ends cannot buy a slow hello time.
func TestSlowHelloHalfClosed(t *testing.T) {
	f := newFixture(t, func(_ *fixture, cfg *Config) { cfg.HelloTimeout = 100 * time.Millisecond })
	client, server := f.pair()
	send(t, client, hello(sni(allowedHost))[:40])
	server.CloseWrite()
	expectEOF(t, client)
	expectReset(t, server)
	if r := f.record(); r.Reason != flow.ReasonTimeout || r.Engine != flow.EngineSNI {
		t.Errorf("%+v", r)
	}
}
