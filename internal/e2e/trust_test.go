package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

func sha256Of(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// settle lets the clock go on: a program that is started in the instant in which its
// file was written has no hash that could be relied on. What ran before is read
// meanwhile.
const settle = "; sleep 0.3; "

// TestTrustedFiles starts programs whose files are not what they were, or are put
// there by the sandbox. One step follows the other in one sandbox, which is what
// trust on first use is about.
func TestTrustedFiles(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	client := f.tool(toolC)
	pinned, stale := f.copyOf(client, "pinned"), f.copyOf(client, "stale")
	// The same program in another file, and another program, which does the same.
	f.copyOf(client, "same")
	other := f.copyOf(client, "other")
	if err := os.WriteFile(other, append(readFile(t, client), "another"...), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(from, to string) string {
		return "cp " + filepath.Join(f.dir, from) + " " + to + ".new && mv " + to + ".new " + to + settle
	}
	hash := sha256Of(t, client)
	// Of the user, on a file system that tells of every write.
	own := filepath.Join(f.dir, "own")
	if err := errors.Join(os.Mkdir(own, 0o755), os.Chown(own, 54321, 54321)); err != nil {
		t.Fatal(err)
	}
	policy := f.policy(`  open:
    endpoints: [{host: "*.open.test", port: 25}]
    binaries:
      - {path: ` + client + `}
      - {path: ` + own + `/writable}
      - {path: ` + own + `/mine, allow_taints: [writable]}
      - {path: ` + own + `/anything, allow_taints: [writable, changed]}
      - {path: ` + own + `/exact, allow_taints: [writable], sha256: ` + hash + `}
      - {path: /tmp/exact, allow_taints: [writable], sha256: ` + hash + `}
      - {path: ` + pinned + `, sha256: ` + hash + `}
      - {path: ` + stale + `, sha256: ` + strings.Repeat("0", 64) + `}
`)
	tests := []struct {
		name, command, reason string
		taints                []string
	}{
		{"root-owned", client + " $H 25", "allowed", nil},
		{"pinned", pinned + " $H 25", "allowed", nil},
		{"stale-pin", stale + " $H 25", "hash_mismatch", nil},
		{"writable", put("client", "OWN/writable") + "OWN/writable $H 25", "tainted", []string{"writable"}},
		// What is used first must have been read before it is replaced: nothing inside can
		// tell when it was.
		{"first-use", put("client", "OWN/mine") + "OWN/mine $H 25; sleep 2", "allowed", []string{"writable"}},
		{"same-content", put("same", "OWN/mine") + "OWN/mine $H 25", "allowed", []string{"writable"}},
		{"replaced", put("other", "OWN/mine") + "OWN/mine $H 25", "hash_changed", []string{"writable", "changed"}},
		{"written-in-place", "cp " + client + " OWN/mine && printf x >> OWN/mine" + settle + "OWN/mine $H 25", "hash_changed", []string{"writable", "changed"}},
		{"put-back", put("client", "OWN/mine") + "OWN/mine $H 25", "allowed", []string{"writable"}},
		{"by-an-ancestor", put("other", "OWN/mine") + "OWN/mine $H 25 | cat", "hash_changed", []string{"writable", "changed"}},
		{"may-change", put("client", "OWN/anything") + "OWN/anything x.test 1; " + put("other", "OWN/anything") + "OWN/anything $H 25", "allowed", []string{"writable", "changed"}},
		{"exact", put("client", "OWN/exact") + "OWN/exact $H 25", "allowed", []string{"writable"}},
		{"exact-replaced", put("other", "OWN/exact") + "OWN/exact $H 25", "hash_mismatch", []string{"writable", "changed"}},
		{"exact-put-back", put("same", "OWN/exact") + "OWN/exact $H 25", "allowed", []string{"writable"}},
		{"exact-untraced", put("client", "/tmp/exact") + "/tmp/exact $H 25", "hash_unavailable", []string{"writable"}},
	}
	var steps []step
	for _, tt := range tests {
		host := tt.name + ".open.test"
		f.env.Zone(host, openAddrs...)
		steps = append(steps, step{tt.name, "H=" + host + "; " + strings.NewReplacer("$H", host, "OWN", own).Replace(tt.command)})
	}
	r, results := f.steps(policy, steps, "--user", "54321")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			verdict := "deny"
			if tt.reason == "allowed" {
				verdict = "allow"
			}
			got := r.one(t, tt.name+".open.test")
			got.check(t, record{Verdict: verdict, Reason: tt.reason})
			if want := tt.taints; !slices.Equal(got.Taints, want) && len(got.Taints)+len(want) > 0 {
				t.Errorf("taints %q, want %q", got.Taints, want)
			}
			if strings.HasPrefix(tt.name, "exact") || strings.Contains(tt.name, "pin") {
				if len(got.SHA256) != 64 && tt.reason != "hash_unavailable" {
					t.Errorf("sha256 %q", got.SHA256)
				}
			}
			if verdict == "deny" && (got.Hint == "" || strings.Contains(results[tt.name].output, "220 ")) {
				t.Errorf("hint %q, output %s", got.Hint, results[tt.name].output)
			}
			if verdict == "deny" && f.env.Asked(tt.name+".open.test") != 0 {
				t.Error("the name of a denied connection was looked up")
			}
		})
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestTaintsAtExec starts an allowed program in ways that put other code under its
// path.
func TestTaintsAtExec(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	client := f.tool(toolC)
	lax := f.copyOf(client, "lax")
	loader := f.copyOf(loaderOf(t, client), "lib/"+filepath.Base(loaderOf(t, client)))
	policy := f.policy(fmt.Sprintf(`  open:
    endpoints: [{host: "*.open.test", port: 25}]
    binaries:
      - {path: %q}
      - {path: %q, allow_taints: [preload]}
      - {path: %q}
`, client, lax, f.dir+"/lib/**"))
	tests := []struct {
		name, command, reason string
		taints, preload       []string
	}{
		{"clean", client + " $H 25", "allowed", nil, nil},
		{"harmless-environment", "LD_PRELOAD= NODE_ENV=x " + client + " $H 25", "allowed", nil, nil},
		{"ld-preload", "LD_PRELOAD=/none.so " + client + " $H 25", "tainted", []string{"preload"}, []string{"LD_PRELOAD"}},
		{"exported-before", "export PYTHONPATH=/x NODE_OPTIONS=-v; sh -c '" + client + " $H 25; true'", "tainted", []string{"preload"}, []string{"NODE_OPTIONS", "PYTHONPATH"}},
		{"of-an-ancestor", "BASH_ENV=/x sh -c 'env -u BASH_ENV " + client + " $H 25; true'", "allowed", nil, nil},
		{"put-up-with", "LD_LIBRARY_PATH=/x " + lax + " $H 25", "allowed", []string{"preload"}, []string{"LD_LIBRARY_PATH"}},
		{"loader", loader + " " + client + " $H 25", "tainted", []string{"loader"}, nil},
	}
	var steps []step
	for _, tt := range tests {
		host := tt.name + ".open.test"
		f.env.Zone(host, openAddrs...)
		steps = append(steps, step{tt.name, strings.ReplaceAll(tt.command, "$H", host)})
	}
	r, _ := f.steps(policy, steps)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := r.one(t, tt.name+".open.test")
			verdict := "deny"
			if tt.reason == "allowed" {
				verdict = "allow"
			}
			got.check(t, record{Verdict: verdict, Reason: tt.reason})
			if !slices.Equal(got.Taints, tt.taints) && len(got.Taints)+len(tt.taints) > 0 || !slices.Equal(got.Preload, tt.preload) {
				t.Errorf("taints %q by %q, want %q by %q", got.Taints, got.Preload, tt.taints, tt.preload)
			}
			for _, name := range tt.preload {
				if verdict == "deny" && !strings.Contains(got.Hint, name) {
					t.Errorf("hint %q does not name %s", got.Hint, name)
				}
			}
		})
	}
}

// TestLargeProgram: a program whose hash is asked for waits until it was read; a
// program beside it does not.
func TestLargeProgram(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	small := f.tool(toolC)
	large := f.copyOf(small, "large")
	if err := os.Truncate(large, 900<<20); err != nil { // sparse: it only has to be read
		t.Fatal(err)
	}
	sum := sha256.New()
	file, err := os.Open(large)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := io.Copy(sum, file); err != nil {
		t.Fatal(err)
	}
	f.env.Zone("large.open.test", openAddrs...)
	f.env.Zone("small.open.test", openAddrs...)
	r := f.sh(f.policy(fmt.Sprintf(`  open:
    endpoints: [{host: "*.open.test", port: 25}]
    binaries: [{path: %q}, {path: %q, sha256: %x}]
`, small, large, sum.Sum(nil))), large+" large.open.test 25 & "+small+" small.open.test 25; wait")
	slow, fast := r.one(t, "large.open.test"), r.one(t, "small.open.test")
	slow.check(t, record{Verdict: "allow", Reason: "allowed", SHA256: hex.EncodeToString(sum.Sum(nil))})
	fast.check(t, record{Verdict: "allow", Reason: "allowed"})
	if fast.DurationMS > slow.DurationMS/2 {
		t.Errorf("the small one took %v ms, the large one %v ms", fast.DurationMS, slow.DurationMS)
	}
}
