package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
)

// All problems of all files are told at once, each on a line with its place.
func TestReportOfPolicies(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	err := errors.Join(
		os.WriteFile(a, []byte("version: 2\nnonsense: 1\n"), 0o644),
		os.WriteFile(b, []byte("version: 1\nnetwork_policies:\n  x:\n    endpoints: []\n    binaries: [{path: /x}]\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	_, _, err = loadPolicies(source.Set{Specs: []string{a, b}}, newLog(&out, false))
	var load policy.LoadError
	if !errors.As(err, &load) {
		t.Fatalf("error %v is no LoadError", err)
	}
	if status := report(&out, err); status != 125 {
		t.Errorf("status %d", status)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	wants := []string{a + ":1:", a + ":2:", b + ":4:", "hint: "}
	if len(lines) != len(wants) {
		t.Fatalf("got\n%s", out.String())
	}
	for i, want := range wants {
		if !strings.Contains(lines[i], want) || i < 3 && !strings.HasPrefix(lines[i], "ringfence: ") {
			t.Errorf("line %q, want %q in it", lines[i], want)
		}
	}
}
