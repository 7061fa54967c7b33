package cli

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestControlPlane(t *testing.T) {
	tests := []struct {
		name    string
		flag    string
		environ []string
		want    string // an empty want is a refusal, "none" is none
	}{
		{"none", "", nil, "none"},
		{"empty variable", "", []string{"RINGFENCE_ENDPOINT="}, "none"},
		{"host and port", "control.example.com:8080", nil, "control.example.com:8080"},
		{"case folds", "Control.Example.com:8080", nil, "control.example.com:8080"},
		{"IPv4", "192.0.2.1:8080", nil, "192.0.2.1:8080"},
		{"IPv6", "[2001:DB8::1]:8080", nil, "[2001:db8::1]:8080"},
		{"https", "https://control.example.com", nil, "control.example.com:443"},
		{"http", "http://control.example.com", nil, "control.example.com:80"},
		{"scheme in capitals", "HTTPS://control.example.com", nil, "control.example.com:443"},
		{"grpc", "grpc://control.example.com", nil, "control.example.com:80"},
		{"port of a URL", "https://control.example.com:8443/path?query", nil, "control.example.com:8443"},
		{"unknown scheme with a port", "dns://control.example.com:8443", nil, "control.example.com:8443"},
		{"IPv6 in a URL", "http://[2001:db8::1]/", nil, "[2001:db8::1]:80"},
		{"first variable", "", []string{"NAVIGATOR_ENDPOINT=b.test:2", "RINGFENCE_ENDPOINT=a.test:1"}, "a.test:1"},
		{"second variable", "", []string{"NAVIGATOR_ENDPOINT=https://b.test"}, "b.test:443"},
		{"the flag wins", "c.test:3", []string{"RINGFENCE_ENDPOINT=a.test:1"}, "c.test:3"},
		{"the last of a variable", "", []string{"RINGFENCE_ENDPOINT=a.test:1", "RINGFENCE_ENDPOINT=b.test:1"}, "b.test:1"},

		{"no port", "control.example.com", nil, ""},
		{"port 0", "control.example.com:0", nil, ""},
		{"unknown scheme without a port", "dns://control.example.com", nil, ""},
		{"empty host", "https://", nil, ""},
		{"a user", "https://user@control.example.com", nil, ""},
		{"a host that looks like a user", "https://control.example.com:443@evil.test", nil, ""},
		{"encoded", "https://control%2eexample.com", nil, ""},
		{"zone", "http://[fe80::1%25lo]/", nil, ""},
		{"numeric", "http://2130706433/", nil, ""},
		{"port out of range", "https://control.example.com:65979", nil, ""},
		{"wildcard", "*.example.com:443", nil, ""},
		{"two", "a.test:1,b.test:2", nil, ""},
		{"bad variable", "", []string{"RINGFENCE_ENDPOINT=nowhere"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := controlPlane(tt.flag, Env{Environ: tt.environ})
			switch tt.want {
			case "":
				wantHint(t, err)
				fallthrough
			case "none":
				if got != (flow.Target{}) || (err == nil) != (tt.want == "none") {
					t.Errorf("got %v, %v", got, err)
				}
			default:
				if err != nil || got.String() != tt.want {
					t.Errorf("got %v, %v; want %s", got, err, tt.want)
				}
			}
		})
	}
}

// FuzzParseEndpoint checks that what is accepted has one reading: it is a target
// that names itself.
func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"https://a.test", "a.test:1", "http://[::1]:1/", "https://u@a.test", "grpc://a.test:65535#x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := flow.ParseEndpoint(text)
		if err != nil {
			return
		}
		if again, err := flow.ParseTarget(target.String()); err != nil || again != target {
			t.Errorf("%q became %+v, which reads as %+v, %v", text, target, again, err)
		}
		// Nothing of a path, a query or a user has become the host.
		if _, rest, ok := strings.Cut(text, "://"); ok {
			authority, _, _ := strings.Cut(rest, "/")
			authority, _, _ = strings.Cut(authority, "?")
			authority, _, _ = strings.Cut(authority, "#")
			if strings.Contains(authority, "@") || !strings.HasPrefix(strings.ToLower(authority), target.Host) && !target.Addr.IsValid() {
				t.Errorf("%q became %+v", text, target)
			}
		}
	})
}

// FuzzParseResolver: a server has one reading, in each of the ways to write it.
func FuzzParseResolver(f *testing.F) {
	for _, s := range []string{"192.0.2.53", "192.0.2.53:5353", "2001:db8::53", "[2001:db8::53]:5353", "[192.0.2.53]", "0.0.0.0", "[fe80::1%lo]:53", "192.0.2.53:0", "2001:db8::53:53"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		server, ok := parseResolver(text)
		if !ok {
			return
		}
		if server.Port() == 0 || server.Addr().IsUnspecified() || server.Addr().IsMulticast() {
			t.Errorf("%q is %v", text, server)
		}
		if again, ok := parseResolver(server.String()); !ok || again != server {
			t.Errorf("%q is %v, which is %v, %v", text, server, again, ok)
		}
		if addr, err := netip.ParseAddr(text); err == nil && server != netip.AddrPortFrom(addr, 53) {
			t.Errorf("the address %q is %v", text, server)
		}
	})
}
