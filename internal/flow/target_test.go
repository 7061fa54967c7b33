package flow

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestCanonicalHost(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	name253 := strings.Repeat("a.", 126) + "b"
	tests := []struct {
		name, text, want string // an empty want is a refusal
	}{
		{"plain", "example.com", "example.com"},
		{"one label", "localhost", "localhost"},
		{"case folds", "ExAmPle.COM", "example.com"},
		{"underscore and hyphen inside", "_acme-challenge.a--b.example", "_acme-challenge.a--b.example"},
		{"punycode", "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"digits before the last label", "1.2.3.example", "1.2.3.example"},
		{"last label starts with digits", "example.3com", "example.3com"},
		{"hexadecimal digits without 0x", "example.beef", "example.beef"},
		{"longest label", label63 + ".example", label63 + ".example"},
		{"longest name", name253, name253},

		{"empty", "", ""},
		{"root", ".", ""},
		{"trailing dot", "example.com.", ""},
		{"leading dot", ".example.com", ""},
		{"two dots", "example..com", ""},
		{"label too long", label63 + "a.example", ""},
		{"last label too long", "example." + label63 + "a", ""},
		{"name too long", name253 + "c", ""},
		{"hyphen first", "-a.example", ""},
		{"hyphen last in a label", "a-.example", ""},
		{"hyphen last", "example.com-", ""},
		{"NUL", "allowed.example\x00.evil.example", ""},
		{"space", "a b.example", ""},
		{"newline", "a.example\n", ""},
		{"wildcard", "*.example.com", ""},
		{"userinfo", "user@example.com", ""},
		{"port", "example.com:443", ""},
		{"slash", "example.com/x", ""},
		{"percent", "ex%61mple.com", ""},
		{"backslash", `a\.b.example`, ""},
		{"brackets", "[example.com]", ""},
		{"IPv6", "2001:db8::1", ""},
		{"zone", "fe80::1%eth0", ""},
		{"UTF-8", "bücher.example", ""},
		{"invalid UTF-8", "a\xff.example", ""},
		{"ideographic full stop", "example\u3002com", ""},
		{"fullwidth letters", "\uff45xample.com", ""},
		// strings.ToLower makes ASCII of these two.
		{"Kelvin sign beside an upper-case letter", "A.\u212aample", ""},
		{"dotted capital I beside an upper-case letter", "A.\u0130nfo", ""},
		{"IPv4", "192.0.2.1", ""},
		{"IPv4, short", "127.1", ""},
		{"IPv4, decimal", "2130706433", ""},
		{"IPv4, octal", "0177.0.0.1", ""},
		{"IPv4, hexadecimal", "0x7f000001", ""},
		{"IPv4, upper-case hexadecimal", "0X7F.1.0XA", ""},
		{"0x alone", "example.0x", ""},
		{"last label all digits", "example.1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := CanonicalHost(tt.text)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("CanonicalHost(%q) = %q, %v; want %q", tt.text, got, err, tt.want)
			}
			if err != nil && !errors.Is(err, ErrHost) {
				t.Errorf("error %v is no ErrHost", err)
			}
		})
	}
}

func TestParseTarget(t *testing.T) {
	literal := func(s string) Target { return AddrTarget(netip.MustParseAddrPort(s)) }
	tests := []struct {
		text    string
		want    Target
		wantErr error
	}{
		{"Example.com:443", Target{Host: "example.com", Port: 443}, nil},
		{"example.com:1", Target{Host: "example.com", Port: 1}, nil},
		{"example.com:65535", Target{Host: "example.com", Port: 65535}, nil},
		{"192.0.2.1:80", literal("192.0.2.1:80"), nil},
		{"[2001:DB8:0::1]:80", literal("[2001:db8::1]:80"), nil},
		{"[::ffff:192.0.2.1]:80", literal("192.0.2.1:80"), nil},

		{"", Target{}, ErrPort},
		{"example.com", Target{}, ErrPort},
		{"example.com:", Target{}, ErrPort},
		{"example.com:0", Target{}, ErrPort},
		{"example.com:0443", Target{}, ErrPort},
		{"example.com:+443", Target{}, ErrPort},
		{"example.com:-1", Target{}, ErrPort},
		{"example.com: 443", Target{}, ErrPort},
		{"example.com:65536", Target{}, ErrPort},
		{"example.com:65979", Target{}, ErrPort}, // 443 after truncation to 16 bits
		{"example.com:4_43", Target{}, ErrPort},
		{"example.com:0x1bb", Target{}, ErrPort},
		{"example.com:http", Target{}, ErrPort},
		{":443", Target{}, ErrHost},
		{"example.com:443:443", Target{}, ErrHost},
		{"user@example.com:443", Target{}, ErrHost},
		{"2001:db8::1:443", Target{}, ErrHost}, // two readings
		{"[192.0.2.1]:80", Target{}, ErrHost},
		{"[example.com]:80", Target{}, ErrHost},
		{"[fe80::1%lo]:80", Target{}, ErrHost},
		{"[2001:db8::1:80", Target{}, ErrHost},
		{"2001:db8::1]:80", Target{}, ErrHost},
		{"[]:80", Target{}, ErrHost},
		{"192.0.2.1.:80", Target{}, ErrHost},
		{"192.0.2.01:80", Target{}, ErrHost},
		{"http://example.com:80", Target{}, ErrHost},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := ParseTarget(tt.text)
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("ParseTarget (-want +got):\n%s", diff)
			}
			if !errors.Is(err, tt.wantErr) {
				t.Errorf("error = %v, want %v", err, tt.wantErr)
			}
		})
	}
}

func TestAddrTarget(t *testing.T) {
	tests := []struct{ addr, host, text string }{
		{"192.0.2.1:80", "192.0.2.1", "192.0.2.1:80"},
		{"[::ffff:192.0.2.1]:80", "192.0.2.1", "192.0.2.1:80"},
		{"[2001:db8::1]:80", "2001:db8::1", "[2001:db8::1]:80"},
		{"[fe80::1%lo]:80", "fe80::1", "[fe80::1]:80"},
	}
	for _, tt := range tests {
		got := AddrTarget(netip.MustParseAddrPort(tt.addr))
		if got.Host != tt.host || got.String() != tt.text || got.Addr.String() != tt.host {
			t.Errorf("AddrTarget(%s) = %+v (%s), want host %s", tt.addr, got, got, tt.host)
		}
	}
}

// FuzzCanonicalHost checks what all matching stands on: what is accepted is a
// fixed point, differs from the input in ASCII case only, and is no address.
func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"Example.com", "a.\u212a", "127.1", "0X7f", "a..b", "-a", "xn--a.b", "a\x00b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, err := CanonicalHost(text)
		if err != nil {
			if name != "" {
				t.Fatalf("an error came with the name %q", name)
			}
			return
		}
		if again, err := CanonicalHost(name); err != nil || again != name {
			t.Errorf("%q became %q, which becomes %q, %v", text, name, again, err)
		}
		if len(name) != len(text) || !strings.EqualFold(name, text) {
			t.Errorf("%q became another name: %q", text, name)
		}
		for i := range len(name) {
			if c := name[i]; c >= 0x80 || c <= ' ' || 'A' <= c && c <= 'Z' {
				t.Errorf("%q holds byte %#x", name, c)
			}
		}
		if _, err := netip.ParseAddr(name); err == nil {
			t.Errorf("%q is an address", name)
		}
	})
}

// FuzzParseTarget checks that what is accepted has one reading: its own text
// form parses to the same target.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"example.com:443", "[::ffff:192.0.2.1]:80", "[2001:db8::1]:1", "a:b:1", "1:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := ParseTarget(text)
		if err != nil {
			if target != (Target{}) {
				t.Fatalf("an error came with %+v", target)
			}
			return
		}
		if target.Port == 0 || target.Host == "" || target.Addr.Is4In6() || target.Addr.Zone() != "" {
			t.Errorf("%q became %+v", text, target)
		}
		if again, err := ParseTarget(target.String()); err != nil || again != target {
			t.Errorf("%q became %+v, which reads as %+v, %v", text, target, again, err)
		}
	})
}

func BenchmarkCanonicalHost(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CanonicalHost("objects.githubusercontent.com"); err != nil {
			b.Fatal(err)
		}
	}
}
