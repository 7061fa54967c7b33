package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/testenv"
)

// TestDemo builds the real program and shows the whole demo, which checks itself.
func TestDemo(t *testing.T) {
	testenv.Require(t, "ip", "nsenter", "curl")
	ringfence := filepath.Join(t.TempDir(), "ringfence")
	build := exec.Command("go", "build", "-o", ringfence, "../../../cmd/ringfence")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	var out strings.Builder
	if err := show(t.Context(), ringfence, printer{w: &out}); err != nil {
		t.Errorf("demo: %v\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colours, and no terminal")
	}
}

func TestReadRecords(t *testing.T) {
	file := filepath.Join(t.TempDir(), "records")
	line := `{"verdict":"deny","binary":"/usr/bin/curl","host":"paste.example.net","reason":"undeclared_name","pid":7}` + "\n"
	if err := os.WriteFile(file, []byte(line+line), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []record{{Verdict: "deny", Binary: "/usr/bin/curl", Host: "paste.example.net", Reason: "undeclared_name"}}
	got, err := readRecords(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if err := checkRecords(got); err == nil || strings.Count(err.Error(), "no record of") != len(acts)-1 {
		t.Errorf("checkRecords = %v, want all but one missing", err)
	}
}

func TestCheckArrived(t *testing.T) {
	const declared, asked = "tcp to 203.0.113.10:443", "udp to 203.0.113.53:53"
	for _, test := range []struct {
		name    string
		arrived []string
		want    string
	}{
		{"as told", []string{asked, declared}, ""},
		{"nothing", nil, "nothing arrived"},
		{"escaped", []string{declared, "tcp to 203.0.113.66:443"}, "should not have: tcp to 203.0.113.66:443"},
		{"another resolver", []string{declared, "udp to 203.0.113.54:53"}, "should not have: udp"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := checkArrived(test.arrived)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("checkArrived = %v, want %q", err, test.want)
			}
		})
	}
}

func TestPrintable(t *testing.T) {
	if got, want := printable("/tmp/\x1b[2Jü\n"), "/tmp/?[2Jü?"; got != want {
		t.Errorf("printable = %q, want %q", got, want)
	}
}
