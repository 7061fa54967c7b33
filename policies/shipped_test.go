package policies_test

import (
	"bytes"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/policies"
)

// document is a policy file, as far as these tests look into it.
type document struct {
	Version    int
	Filesystem any                `yaml:"filesystem_policy"`
	Landlock   any                `yaml:"landlock"`
	Process    any                `yaml:"process"`
	Networks   map[string]network `yaml:"network_policies"`
}

type network struct {
	Name      string
	Endpoints []map[string]any
	Binaries  []program
}

type program struct {
	Path        string
	AllowTaints []string `yaml:"allow_taints"`
}

// keysOf says which network policies each shipped file has, sorted.
var keysOf = map[string][]string{
	"default": {"anthropic", "github", "go", "npm", "openai", "pypi"},
	"base": {"claude_code", "codex", "cursor", "github_rest_api", "github_ssh_over_https", "nvidia_inference",
		"opencode", "pypi", "vscode"},
	"openclaw": {"claude_code", "cluster_pods", "cursor", "github_rest_api", "github_ssh_over_https", "gitlab",
		"inference", "nvidia_inference", "nvidia_web", "opencode", "pypi", "vscode"},
	"nemoclaw": {"claude_code", "cluster_pods", "cursor", "github_rest_api", "github_ssh_over_https", "gitlab",
		"inference", "nvidia_inference", "nvidia_web", "opencode", "pypi", "vscode"},
	"deny-all": nil,

	"claude-code":      {"claude_code"},
	"cluster-pods":     {"cluster_pods"},
	"codex":            {"codex"},
	"cursor":           {"cursor"},
	"github":           {"github_rest_api", "github_ssh_over_https"},
	"gitlab":           {"gitlab"},
	"inference":        {"inference"},
	"npm":              {"npm"},
	"nvidia-inference": {"nvidia_inference"},
	"nvidia-web":       {"nvidia_web"},
	"opencode":         {"opencode"},
	"pypi":             {"pypi"},
	"vscode":           {"vscode"},
}

// wildcards are the only hosts that are not written out.
var wildcards = []string{"*.npmjs.org"}

func parse(t *testing.T, data []byte) document {
	t.Helper()
	var d document
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

func shipped(t *testing.T, name string) policies.Shipped {
	t.Helper()
	one, ok := policies.Lookup(name)
	if !ok {
		t.Fatalf("%s is not shipped", name)
	}
	return one
}

func TestAllAndLookup(t *testing.T) {
	var names []string
	for _, one := range policies.All() {
		names = append(names, one.Name)
		if found := shipped(t, one.Name); !cmp.Equal(found, one) {
			t.Errorf("%s is another one when it is looked up", one.Name)
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(keysOf)), names); diff != "" {
		t.Errorf("shipped (-want +got)\n%s", diff)
	}
	for _, name := range []string{"", ".", "..", "base.yaml", "BASE", "./base", "../policies/base", "network", "/base", "base\x00"} {
		if _, ok := policies.Lookup(name); ok {
			t.Errorf("%q is found", name)
		}
	}
	// One caller's changes are not another's.
	shipped(t, "base").Data[0] = 'x'
	if shipped(t, "base").Data[0] != '#' {
		t.Error("the data is shared")
	}
}

func TestText(t *testing.T) {
	const schema = "# yaml-language-server: $schema=policy.schema.json"
	for _, one := range policies.All() {
		t.Run(one.Name, func(t *testing.T) {
			if !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(one.Name) {
				t.Error("the name is not one of small letters, digits and hyphens")
			}
			lines := strings.Split(string(one.Data), "\n")
			if lines[0] != "# "+one.Summary || lines[1] != schema {
				t.Errorf("begins with\n%s\n%s", lines[0], lines[1])
			}
			if !regexp.MustCompile(`^[A-Z].{0,87}\.$`).MatchString(one.Summary) {
				t.Errorf("%q is not one sentence of less than 90 characters", one.Summary)
			}
			for i, line := range lines {
				if len(line) > 100 || strings.TrimRight(line, " ") != line || strings.Contains(line, "\t") {
					t.Errorf("line %d is long, or ends in a space, or holds a tab", i+1)
				}
			}
			if version := parse(t, one.Data).Version; version != 1 {
				t.Errorf("version %d", version)
			}
		})
	}
}

func TestNetworkPolicies(t *testing.T) {
	for _, one := range policies.All() {
		t.Run(one.Name, func(t *testing.T) {
			networks := parse(t, one.Data).Networks
			if diff := cmp.Diff(keysOf[one.Name], slices.Sorted(maps.Keys(networks))); diff != "" {
				t.Errorf("keys (-want +got)\n%s", diff)
			}
			for key, n := range networks {
				if !regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*$`).MatchString(key) {
					t.Errorf("%s is not in snake case", key)
				}
				if want := strings.ReplaceAll(key, "_", "-"); one.Name != "default" && n.Name != want {
					t.Errorf("%s has the name %q, not %q", key, n.Name, want)
				}
				checkEndpoints(t, key, n.Endpoints)
				checkBinaries(t, key, n.Binaries)
			}
		})
	}
}

func checkEndpoints(t *testing.T, key string, endpoints []map[string]any) {
	t.Helper()
	for i, e := range endpoints {
		host, _ := e["host"].(string)
		switch {
		case host == "" && e["allowed_ips"] == nil:
			t.Errorf("%s[%d] leads nowhere", key, i)
		case strings.Contains(host, "*") && !slices.Contains(wildcards, host):
			t.Errorf("%s[%d]: %s is a wildcard", key, i, host)
		case host != strings.ToLower(host):
			t.Errorf("%s[%d]: %s is not in small letters", key, i, host)
		}
		for _, other := range endpoints[:i] {
			if other["host"] == e["host"] && other["port"] == e["port"] && other["path"] == e["path"] {
				t.Errorf("%s[%d]: %s stands there twice", key, i, host)
			}
		}
	}
}

// checkBinaries holds the files that the sandbox can write to be exactly those
// that may match although it can.
func checkBinaries(t *testing.T, key string, binaries []program) {
	t.Helper()
	for i, b := range binaries {
		if !path.IsAbs(b.Path) || path.Clean(b.Path) != b.Path {
			t.Errorf("%s: %s is not absolute and clean", key, b.Path)
		}
		var want []string
		if strings.HasPrefix(b.Path, "/sandbox/") || strings.HasPrefix(b.Path, "/tmp/") {
			want = []string{"writable"}
		}
		if strings.HasPrefix(b.Path, "/home/") { // of a machine where nobody accepts an update
			want = []string{"writable", "changed"}
		}
		if !slices.Equal(b.AllowTaints, want) {
			t.Errorf("%s: %s has allow_taints %q, not %q", key, b.Path, b.AllowTaints, want)
		}
		if slices.ContainsFunc(binaries[:i], func(other program) bool { return other.Path == b.Path }) {
			t.Errorf("%s: %s stands there twice", key, b.Path)
		}
	}
}

// TestEqualKeysAreEqual is why nobody has to compare two files that have a network
// policy of one key.
func TestEqualKeysAreEqual(t *testing.T) {
	// Those that differ on purpose from all others of the key, by file.
	different := map[string][]string{
		"github_rest_api": {"openclaw", "nemoclaw"}, // rules written out, to add some for writing
		"pypi":            {"default"},              // for a whole machine, which has no /sandbox
	}
	first := map[string]string{} // by key, and by file where it differs
	for _, one := range policies.All() {
		for key, n := range parse(t, one.Data).Networks {
			n.Name = "" // default has none; the others are checked above
			group := key
			if slices.Contains(different[key], one.Name) {
				group += " (different)"
			}
			if first[group] == "" {
				first[group] = one.Name
			}
			other := parse(t, shipped(t, first[group]).Data).Networks[key]
			other.Name = ""
			if diff := cmp.Diff(other, n); diff != "" {
				t.Errorf("%s is not the same in %s and %s (-first +second)\n%s", key, first[group], one.Name, diff)
			}
		}
	}
	for key, files := range different {
		for _, file := range files {
			if !slices.Contains(keysOf[file], key) {
				t.Errorf("%s is no longer in %s", key, file)
			}
		}
	}
}

// TestSections: whole policies say the same of files and users; what is there to
// be added to another says nothing of them, for a section may stand in one only.
func TestSections(t *testing.T) {
	want := parse(t, []byte(`
version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /lib, /proc, /dev/urandom, /app, /etc, /var/log]
  read_write: [/sandbox, /tmp, /dev/null]
landlock: {compatibility: best_effort}
process: {run_as_user: sandbox, run_as_group: sandbox}
`))
	for _, one := range policies.All() {
		got := parse(t, one.Data)
		got.Networks = nil
		expected := document{Version: 1}
		if slices.Contains([]string{"base", "openclaw", "nemoclaw"}, one.Name) {
			expected = want
		}
		if diff := cmp.Diff(expected, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", one.Name, diff)
		}
	}
}
