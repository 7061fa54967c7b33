package policy

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/policies"
)

// FuzzShow: a policy that loads is shown as one that loads again, and as the same: so
// what a person reads is what is decided by, whatever the YAML of the file was.
func FuzzShow(f *testing.F) {
	f.Add([]byte("version: 1\n" + decidePolicy))
	for _, shipped := range policies.All() {
		f.Add(shipped.Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, _, err := Load(Source{"x.yaml", data})
		if err != nil {
			return
		}
		shown, err := p.YAML(nil)
		if err != nil {
			t.Fatal(err)
		}
		checkText(t, string(shown))
		again, _, err := Load(Source{"again.yaml", shown})
		if err != nil {
			t.Fatalf("what is shown does not load: %v\n%s", err, shown)
		}
		twice, err := again.YAML(nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(withoutComments(shown), withoutComments(twice)); diff != "" {
			t.Errorf("shown again it is another (-first +second):\n%s", diff)
		}
	})
}

// withoutComments leaves out the lines that say where a part was defined.
func withoutComments(text []byte) string {
	var out strings.Builder
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) {
			out.Write(line)
		}
	}
	return out.String()
}
