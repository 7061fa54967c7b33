package cli

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// wantHint fails the test unless err is an error with a hint.
func wantHint(t *testing.T, err error) {
	t.Helper()
	var hinted *hintedError
	if !errors.As(err, &hinted) || hinted.hint == "" {
		t.Errorf("error %v has no hint", err)
	}
}

func TestParseResolvers(t *testing.T) {
	tests := []struct{ text, want string }{ // an empty want is a refusal
		{"192.0.2.53", "192.0.2.53:53"},
		{"192.0.2.53:5353", "192.0.2.53:5353"},
		{"2001:db8::53", "[2001:db8::53]:53"},
		{"[2001:db8::53]", "[2001:db8::53]:53"},
		{"[2001:db8::53]:5353", "[2001:db8::53]:5353"},
		{"fe80::1%lo", "[fe80::1%lo]:53"},
		{"127.0.0.53", "127.0.0.53:53"},
		{"", ""},
		{"resolver.example", ""},
		{"192.0.2.53:", ""},
		{"192.0.2.53:0", ""},
		{"192.0.2.53:65536", ""},
		{"192.0.2.53:dns", ""},
		{"192.0.2.53/32", ""},
		{"[192.0.2.53]", ""},
		{"[[2001:db8::53]]", ""},
		{"[2001:db8::53", ""},
		{"[]", ""},
		{"0.0.0.0", ""},
		{"[::]:53", ""},
		{"224.0.0.251:5353", ""},
		{" 192.0.2.53", ""},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := parseResolvers([]string{tt.text})
			if tt.want == "" {
				if err == nil {
					t.Errorf("got %v, want a refusal", got)
				}
				wantHint(t, err)
				return
			}
			want := []netip.AddrPort{netip.MustParseAddrPort(tt.want)}
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
	if got, err := parseResolvers(nil); got != nil || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	if got, err := parseResolvers([]string{"192.0.2.1", "192.0.2.2"}); len(got) != 2 || err != nil {
		t.Errorf("two: %v, %v", got, err)
	}
}

func TestParsePrefixes(t *testing.T) {
	tests := []struct {
		text string
		want string // an empty want is a refusal
		says string // part of the refusal or its hint
	}{
		{"10.20.0.0/16", "10.20.0.0/16", ""},
		{"10.20.30.40/32", "10.20.30.40/32", ""},
		{"fd00::/8", "fd00::/8", ""},
		{"0.0.0.0/0", "", "never dialled"},
		{"169.254.0.0/16", "", "never dialled"},
		{"10.20.30.40/16", "", "did you mean 10.20.0.0/16?"},
		{"fd00::1/8", "", "did you mean fd00::/8?"},
		{"10.20.30.40", "", "write 10.20.0.0/16"},
		{"10.0.0.0/33", "", "not a network"},
		{"10.0.0.0/-1", "", "not a network"},
		{"example.com/8", "", "not a network"},
		{"", "", "not a network"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := parsePrefixes([]string{tt.text})
			if tt.want == "" {
				wantHint(t, err)
				var out strings.Builder
				if report(&out, err); !strings.Contains(out.String(), tt.says) {
					t.Errorf("got %q, want %q in it", out.String(), tt.says)
				}
				return
			}
			if err != nil || len(got) != 1 || got[0].String() != tt.want {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestResolveDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, current, flag, want string // an empty want is a refusal
	}{
		{"none named", dir, "", dir},
		{"relative", dir, "sub", dir + "/sub"},
		{"relative, not clean", dir, "./sub/../sub/", dir + "/sub"},
		{"absolute", "/", dir + "/sub", dir + "/sub"},
		{"absolute, current directory gone", "", dir, dir},
		{"none named, current directory gone", "", "", ""},
		{"relative, current directory gone", "", "sub", ""},
		{"missing", dir, "missing", ""},
		{"a file", dir, "file", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := resolveDir(tt.current, tt.flag)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestUpstreamCA(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("no certificate"), 0o644); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	log := newLog(&said, false)
	if err := checkUpstreamCA("", log); err != nil {
		t.Error(err)
	}
	wantHint(t, checkUpstreamCA(file, log))
	for _, path := range []string{file + ".missing", "/dev/zero", "/"} {
		if err := checkUpstreamCA(path, log); err == nil {
			t.Errorf("%s was taken for certificates", path)
		}
	}
	if said.Len() > 0 {
		t.Errorf("said %q", said.String())
	}
}
