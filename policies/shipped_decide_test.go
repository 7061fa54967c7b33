package policies_test

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/policies"
)

// inspected is what Decide says of a connection whose requests are to be decided
// one by one: it is denied, as long as nothing reads them.
const inspected = flow.ReasonInspectionUnavailable

// scope is what a network policy is for: all of the programs may reach all of the
// targets, and nobody else may.
type scope struct {
	plain     []string // targets that host, port and program decide
	inspected []string // targets whose requests are decided
	programs  []string // one that matches, for each of binaries
	any       bool     // it is for every program
	misses    []string // targets near to the others that are not meant
}

var scopes = map[string]scope{
	"claude_code": {
		plain:     []string{"statsig.anthropic.com:443", "sentry.io:443", "raw.githubusercontent.com:443", "platform.claude.com:443"},
		inspected: []string{"api.anthropic.com:443"},
		programs:  []string{"/usr/local/bin/claude", "/usr/bin/node"},
		misses:    []string{"anthropic.com:443", "claude.com:443", "gist.githubusercontent.com:443"},
	},
	"github_ssh_over_https": {
		inspected: []string{"github.com:443"},
		programs:  []string{"/usr/bin/git"},
		misses:    []string{"github.com:22", "ssh.github.com:443", "codeload.github.com:443"},
	},
	"github_rest_api": {
		inspected: []string{"api.github.com:443"},
		programs:  []string{"/usr/local/bin/claude", "/usr/bin/gh"},
		misses:    []string{"uploads.github.com:443"},
	},
	"nvidia_inference": {
		plain:    []string{"integrate.api.nvidia.com:443"},
		programs: []string{"/usr/bin/curl", "/bin/bash", "/usr/local/bin/opencode"},
		misses:   []string{"api.nvidia.com:443"},
	},
	"pypi": {
		plain: []string{"pypi.org:443", "files.pythonhosted.org:443", "github.com:443", "objects.githubusercontent.com:443",
			"api.github.com:443", "downloads.python.org:443"},
		programs: []string{"/sandbox/.venv/bin/python", "/sandbox/.venv/bin/python3", "/sandbox/.venv/bin/pip",
			"/app/.venv/bin/python", "/app/.venv/bin/python3", "/app/.venv/bin/pip", "/usr/local/bin/uv",
			"/sandbox/.uv/python/cpython-3.13/bin/python3.13"},
		misses: []string{"upload.pypi.org:443", "test.pypi.org:443", "www.python.org:443"},
	},
	"vscode": {
		plain: []string{"update.code.visualstudio.com:443", "az764295.vo.msecnd.net:443", "vscode.download.prss.microsoft.com:443",
			"marketplace.visualstudio.com:443", "gallerycdn.vsassets.io:443"},
		programs: []string{"/usr/bin/curl", "/usr/bin/wget", "/sandbox/.vscode-server/bin/0123abc/node",
			"/sandbox/.vscode-remote-containers/bin/node"},
		misses: []string{"other.vo.msecnd.net:443", "visualstudio.com:443", "download.prss.microsoft.com:443"},
	},
	"cursor": {
		plain: []string{"cursor.blob.core.windows.net:443", "api2.cursor.sh:443", "repo.cursor.sh:443", "download.cursor.sh:443",
			"cursor.download.prss.microsoft.com:443"},
		programs: []string{"/usr/bin/curl", "/usr/bin/wget", "/sandbox/.cursor-server/bin/0123abc/node"},
		misses:   []string{"other.blob.core.windows.net:443", "api3.cursor.sh:443", "cursor.sh:443"},
	},
	"opencode": {
		plain: []string{"a.npmjs.org:443", "opencode.ai:443", "integrate.api.nvidia.com:443"},
		programs: []string{"/usr/lib/node_modules/opencode-ai/bin/.opencode", "/usr/bin/node",
			"/usr/local/bin/opencode"},
		misses: []string{"npmjs.org:443", "www.opencode.ai:443"},
	},
	"codex": {
		plain:    []string{"api.openai.com:443", "auth.openai.com:443", "chatgpt.com:443"},
		programs: []string{"/usr/bin/codex", "/usr/bin/node", "/usr/lib/node_modules/@openai/codex/vendor/codex"},
		misses:   []string{"openai.com:443", "files.openai.com:443"},
	},
	"npm": {
		plain:    []string{"a.npmjs.org:443"},
		programs: []string{"/usr/bin/node", "/usr/local/bin/node"},
		misses:   []string{"npmjs.org:443"},
	},
	"gitlab": {
		plain:    []string{"gitlab.com:443", "gitlab.mycorp.com:443"},
		programs: []string{"/usr/bin/glab"},
		misses:   []string{"mycorp.com:443", "gitlab.com:22"},
	},
	"nvidia_web": {
		plain:    []string{"nvidia.com:443", "www.nvidia.com:443"},
		programs: []string{"/usr/bin/curl"},
		misses:   []string{"developer.nvidia.com:443"},
	},
	"cluster_pods": {
		plain:    []string{"10.42.0.1:8080"},
		programs: []string{"/tmp/anything"},
		any:      true,
		misses: []string{"10.41.255.255:8080", "10.43.0.0:8080", "192.168.0.1:8080", "127.0.0.1:8080", "10.42.0.1:443",
			"10.42.0.1:6443", "10.42.0.1:10250", "[fd00::1]:8080", "pod.example.test:8080"},
	},
	"inference": {
		inspected: []string{"inference.local:443"},
		programs:  []string{"/tmp/anything"},
		any:       true,
		misses:    []string{"local:443", "other.local:443"},
	},
}

// compositions are policies that must go together.
var compositions = [][]string{
	{"base", "gitlab", "nvidia-web", "cluster-pods", "inference", "npm"},
	{"openclaw", "codex", "npm"},
	{"nemoclaw", "codex", "npm"},
	{"claude-code", "cluster-pods", "codex", "cursor", "github", "gitlab", "inference", "npm", "nvidia-inference", "nvidia-web",
		"opencode", "pypi", "vscode"},
	{"deny-all", "github", "pypi"},
}

// judge is a loaded policy that is asked about connections.
type judge struct {
	*testing.T
	engine *policy.Engine
}

func newJudge(t *testing.T, names ...string) judge {
	t.Helper()
	var sources []policy.Source
	for _, name := range names {
		sources = append(sources, policy.Source{Name: name, Data: shipped(t, name).Data})
	}
	p, _, err := policy.Load(sources...)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.NewEngine(t.Context(), p, policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return judge{t, engine}
}

// clean returns the identity of a program and of those that started it.
func clean(path string, ancestors ...string) *flow.Identity { return tainted(0, path, ancestors...) }

func tainted(taints flow.Taint, path string, ancestors ...string) *flow.Identity {
	var images []flow.Image
	for _, a := range ancestors {
		images = append(images, flow.Image{Path: a})
	}
	return flow.NewIdentity(flow.Image{Path: path, Taints: taints}, 1000, 1000, images)
}

func parseTarget(t *testing.T, text string) flow.Target {
	t.Helper()
	target, err := flow.ParseTarget(text)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// expect asks for one decision, and fails unless it has one of the reasons.
func (j judge) expect(id *flow.Identity, to string, reasons ...flow.Reason) {
	j.Helper()
	d := j.engine.Decide(id, parseTarget(j.T, to))
	if !slices.Contains(reasons, d.Reason) || (d.Verdict == flow.Allow) != (d.Reason == flow.ReasonAllowed) {
		j.Errorf("%s (from %v, %v) to %s: %s %s by %q, want %s",
			id.Path, id.Ancestors, id.Taints.Names(), to, d.Verdict, d.Reason, d.Policy, reasons)
	}
}

// within checks everything that follows from a scope.
func (j judge) within(s scope) {
	j.Helper()
	j.opened(s, s.plain, flow.ReasonAllowed)
	j.opened(s, s.inspected, inspected)
	targets := slices.Concat(s.plain, s.inspected)
	for _, p := range s.programs {
		j.otherPrograms(s, p, targets[0])
	}
	for _, to := range targets {
		j.otherTargets(s.programs[0], to)
	}
	for _, to := range s.misses {
		j.expect(clean(s.programs[0]), to, flow.ReasonNoEndpoint, flow.ReasonWrongPort)
	}
}

func (j judge) opened(s scope, targets []string, reason flow.Reason) {
	j.Helper()
	for _, to := range targets {
		for _, p := range s.programs {
			j.expect(clean(p), to, reason)
			j.expect(clean("/usr/bin/child", p), to, reason)
			j.expect(clean("/usr/bin/child", "/bin/sh", p), to, reason)
		}
	}
}

// otherPrograms checks images that are not, or not surely, the program p.
func (j judge) otherPrograms(s scope, p, to string) {
	j.Helper()
	for _, taint := range []flow.Taint{flow.TaintForeignRoot, flow.TaintDeleted, flow.TaintMemfd, flow.TaintNoPath, flow.TaintFiltered} {
		j.expect(tainted(taint, p), to, flow.ReasonTaintedBinary)
	}
	j.expect(tainted(flow.TaintMemfd, "/usr/bin/child", p), to, flow.ReasonTaintedBinary)
	writable := flow.ReasonTaintedBinary
	if strings.HasPrefix(p, "/sandbox/") {
		writable = flow.ReasonAllowed // by allow_taints
	}
	j.expect(tainted(flow.TaintWritable, p), to, writable)
	if !s.any {
		j.expect(clean("/usr/bin/stranger"), to, flow.ReasonWrongBinary)
		j.expect(clean("/tmp"+p), to, flow.ReasonWrongBinary)
		j.expect(clean(strings.ToUpper(p)), to, flow.ReasonWrongBinary)
	}
}

// otherTargets checks ports and names beside a target.
func (j judge) otherTargets(p, to string) {
	j.Helper()
	host, _, _ := strings.Cut(to, ":")
	for _, port := range []string{"22", "80", "444", "8443"} {
		j.expect(clean(p), host+":"+port, flow.ReasonWrongPort)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return // a network has neighbours of other kinds, which its scope names
	}
	labels := strings.Split(host, ".")
	domain := strings.Join(labels[len(labels)-2:], ".")
	for _, near := range []string{
		"sub." + host,
		host + ".evil.test",
		host + "x",
		"x" + domain,
		strings.Replace(host, ".", "-", 1),
	} {
		j.expect(clean(p), near+":443", flow.ReasonNoEndpoint)
	}
}

// TestScopes checks each network policy in each file that has it, and in what can
// be composed of them: none takes from another.
func TestScopes(t *testing.T) {
	sets := slices.Clone(compositions)
	for _, one := range policies.All() {
		if one.Name != "default" { // its keys are its own; see TestConnections
			sets = append(sets, []string{one.Name})
		}
	}
	for _, names := range sets {
		t.Run(strings.Join(names, "+"), func(t *testing.T) {
			j := newJudge(t, names...)
			for _, name := range names {
				for _, key := range keysOf[name] {
					s, ok := scopes[key]
					if !ok {
						t.Fatalf("%s has no scope", key)
					}
					j.within(s)
				}
			}
			j.expect(clean("/usr/bin/stranger"), "unnamed.example.test:443", flow.ReasonNoEndpoint)
		})
	}
}

// TestScopesAreWhole keeps the table above complete.
func TestScopesAreWhole(t *testing.T) {
	for _, one := range policies.All() {
		if one.Name == "default" {
			continue
		}
		for key, n := range parse(t, one.Data).Networks {
			s := scopes[key]
			if len(n.Endpoints) != len(s.plain)+len(s.inspected) || len(n.Binaries) != len(s.programs) {
				t.Errorf("%s in %s has %d endpoints and %d binaries, its scope %d and %d", key, one.Name,
					len(n.Endpoints), len(n.Binaries), len(s.plain)+len(s.inspected), len(s.programs))
			}
		}
	}
}

// TestConnections is about what scopes do not tell: what is not in a policy, and
// how its network policies go together.
func TestConnections(t *testing.T) {
	judges := map[string]judge{}
	for _, test := range []struct {
		policies string // joined with +
		id       *flow.Identity
		to       string
		reason   flow.Reason
		by       string // name of the network policy; "" for none
	}{
		// What stands in no policy of the file.
		{"base", clean("/usr/bin/glab"), "gitlab.com:443", flow.ReasonNoEndpoint, ""},
		{"base", clean("/usr/bin/curl"), "www.nvidia.com:443", flow.ReasonNoEndpoint, ""},
		{"base", clean("/usr/bin/curl"), "10.42.0.1:8080", flow.ReasonNoEndpoint, ""},
		{"base", clean("/usr/bin/curl"), "inference.local:443", flow.ReasonNoEndpoint, ""},
		{"openclaw", clean("/usr/bin/codex"), "api.openai.com:443", flow.ReasonNoEndpoint, ""},
		{"nemoclaw", clean("/usr/bin/codex"), "chatgpt.com:443", flow.ReasonNoEndpoint, ""},
		{"deny-all", clean("/usr/bin/git"), "github.com:443", flow.ReasonNoEndpoint, ""},
		{"deny-all", clean("/usr/bin/curl"), "10.42.0.1:8080", flow.ReasonNoEndpoint, ""},
		{"deny-all", clean("/usr/bin/curl"), "127.0.0.1:443", flow.ReasonNoEndpoint, ""},

		// One program's hosts are not another's.
		{"base", clean("/usr/bin/curl"), "api.anthropic.com:443", flow.ReasonWrongBinary, "claude-code"},
		{"base", clean("/usr/bin/curl"), "pypi.org:443", flow.ReasonWrongBinary, "pypi"},
		{"base", clean("/usr/bin/git"), "api.github.com:443", flow.ReasonWrongBinary, "github-rest-api"},
		{"base", clean("/usr/bin/gh"), "github.com:443", flow.ReasonWrongBinary, "github-ssh-over-https"},
		{"base", clean("/usr/bin/python3.11"), "pypi.org:443", flow.ReasonWrongBinary, "pypi"},
		{"base", clean("/bin/sh"), "integrate.api.nvidia.com:443", flow.ReasonWrongBinary, "nvidia-inference"},
		{"openclaw", clean("/usr/bin/git"), "gitlab.com:443", flow.ReasonWrongBinary, "gitlab"},
		{"openclaw", clean("/usr/bin/wget"), "www.nvidia.com:443", flow.ReasonWrongBinary, "nvidia-web"},
		{"default", clean("/usr/bin/curl"), "api.anthropic.com:443", flow.ReasonWrongBinary, "anthropic"},
		{"default", clean("/usr/bin/git"), "pypi.org:443", flow.ReasonWrongBinary, "pypi"},

		// A near miss of a path.
		{"base", clean("/sandbox/.uv/python"), "pypi.org:443", flow.ReasonAllowed, "pypi"},
		{"base", clean("/sandbox/.uv/python3/bin/python3"), "pypi.org:443", flow.ReasonWrongBinary, "pypi"},
		{"base", clean("/sandbox/.vscode-server-insiders/node"), "marketplace.visualstudio.com:443", flow.ReasonWrongBinary, "vscode"},
		{"base", clean("/usr/lib/node_modules/@openai-evil/codex"), "api.openai.com:443", flow.ReasonWrongBinary, "codex"},
		{"base", clean("/usr/local/bin/node"), "a.npmjs.org:443", flow.ReasonWrongBinary, "opencode"},

		// Of two policies that let a program through, the first by name is told.
		{"base", clean("/usr/local/bin/opencode"), "integrate.api.nvidia.com:443", flow.ReasonAllowed, "nvidia-inference"},
		{"base", clean("/usr/bin/node"), "integrate.api.nvidia.com:443", flow.ReasonAllowed, "opencode"},
		{"base+npm", clean("/usr/bin/node"), "a.npmjs.org:443", flow.ReasonAllowed, "npm"},

		// GitHub stands in pypi without inspection. Where a program that is inspected
		// started the one that is not, inspection stays.
		{"base", clean("/usr/local/bin/uv"), "api.github.com:443", flow.ReasonAllowed, "pypi"},
		{"base", clean("/usr/local/bin/uv", "/usr/local/bin/claude"), "api.github.com:443", inspected, "github-rest-api"},
		{"base", clean("/usr/bin/git", "/usr/local/bin/uv"), "github.com:443", inspected, "github-ssh-over-https"},
		{"openclaw", clean("/sandbox/.venv/bin/python3", "/usr/local/bin/claude"), "api.github.com:443", inspected, "github-rest-api"},

		// What is added is for the programs that it names, and for no others.
		{"base+gitlab", clean("/usr/bin/git", "/usr/bin/glab"), "gitlab.com:443", flow.ReasonAllowed, "gitlab"},
		{"base+gitlab", clean("/usr/bin/git"), "gitlab.com:443", flow.ReasonWrongBinary, "gitlab"},
		{"base+inference", clean("/usr/bin/stranger"), "inference.local:443", inspected, "inference"},
		{"default+inference+gitlab+nvidia-web+cluster-pods", clean("/usr/bin/curl"), "github.com:443", flow.ReasonAllowed, "github"},
		{"default+inference+gitlab+nvidia-web+cluster-pods", clean("/usr/bin/curl"), "10.42.7.7:8080", flow.ReasonAllowed, "cluster-pods"},
	} {
		if judges[test.policies].engine == nil {
			judges[test.policies] = newJudge(t, strings.Split(test.policies, "+")...)
		}
		j := judges[test.policies]
		j.expect(test.id, test.to, test.reason)
		if by := j.engine.Decide(test.id, parseTarget(t, test.to)).Policy; by != test.by {
			t.Errorf("%s: %s to %s is decided by %q, want %q", test.policies, test.id.Path, test.to, by, test.by)
		}
	}
}

// TestWhatDoesNotCompose: a policy that a file has already is not added again.
func TestWhatDoesNotCompose(t *testing.T) {
	for _, names := range [][]string{
		{"base", "pypi"}, {"base", "github"}, {"openclaw", "gitlab"}, {"base", "openclaw"}, {"default", "npm"},
		// default does not inspect what claude-code does.
		{"default", "claude-code"},
	} {
		var sources []policy.Source
		for _, name := range names {
			sources = append(sources, policy.Source{Name: name, Data: shipped(t, name).Data})
		}
		if _, _, err := policy.Load(sources...); err == nil {
			t.Errorf("%v is loaded", names)
		}
	}
}

// requests are the decisions on requests of inspected connections.
var requests = []struct {
	policy       string
	program, to  string
	method, path string
	query        string
	verdict      flow.Verdict
}{
	// claude_code: every request.
	{"base", "/usr/bin/node", "api.anthropic.com:443", "POST", "/v1/messages", "beta=true", flow.Allow},
	{"base", "/usr/local/bin/claude", "api.anthropic.com:443", "DELETE", "/v1/files/file_1", "", flow.Allow},

	// inference: every request, for the agent answers it.
	{"openclaw", "/usr/bin/stranger", "inference.local:443", "POST", "/v1/chat/completions", "", flow.Allow},

	// github_ssh_over_https: clone and fetch.
	{"base", "/usr/bin/git", "github.com:443", "GET", "/o/r.git/info/refs", "service=git-upload-pack", flow.Allow},
	{"base", "/usr/bin/git", "github.com:443", "HEAD", "/o/r.git/info/refs", "service=git-upload-pack", flow.Allow},
	{"base", "/usr/bin/git", "github.com:443", "GET", "/info/refs", "", flow.Allow},
	{"base", "/usr/bin/git", "github.com:443", "POST", "/o/r.git/git-upload-pack", "", flow.Allow},
	{"base", "/usr/bin/git", "github.com:443", "POST", "/o/r.git/git-receive-pack", "", flow.Deny},
	{"base", "/usr/bin/git", "github.com:443", "POST", "/o/r.git/info/refs", "", flow.Deny},
	{"base", "/usr/bin/git", "github.com:443", "GET", "/o/r.git/git-upload-pack", "", flow.Deny},
	{"base", "/usr/bin/git", "github.com:443", "GET", "/o/r/raw/main/x", "", flow.Deny},
	{"base", "/usr/bin/git", "github.com:443", "GET", "/o/r.git/info/refs/x", "", flow.Deny},
	{"base", "/usr/bin/git", "github.com:443", "POST", "/o/r.git/git-upload-packs", "", flow.Deny},
	{"base", "/usr/bin/git", "github.com:443", "POST", "/o/r.git/git-receive-pack", "x=/git-upload-pack", flow.Deny},
	{"github", "/usr/bin/git", "github.com:443", "POST", "/o/r.git/git-upload-pack", "", flow.Allow},
	{"github", "/usr/bin/git", "github.com:443", "POST", "/o/r.git/git-receive-pack", "", flow.Deny},
	{"nemoclaw", "/usr/bin/git", "github.com:443", "POST", "/o/r.git/git-receive-pack", "", flow.Deny},

	// github_rest_api: to read, as a preset and as rules.
	{"base", "/usr/bin/gh", "api.github.com:443", "GET", "/repos/o/r/issues", "per_page=5", flow.Allow},
	{"base", "/usr/bin/gh", "api.github.com:443", "GET", "/", "", flow.Allow},
	{"base", "/usr/bin/gh", "api.github.com:443", "HEAD", "/user", "", flow.Allow},
	{"base", "/usr/bin/gh", "api.github.com:443", "OPTIONS", "/user", "", flow.Allow},
	{"base", "/usr/bin/gh", "api.github.com:443", "POST", "/graphql", "", flow.Deny},
	{"base", "/usr/bin/gh", "api.github.com:443", "POST", "/repos/o/r/issues", "", flow.Deny},
	{"base", "/usr/bin/gh", "api.github.com:443", "PUT", "/repos/o/r/contents/x", "", flow.Deny},
	{"base", "/usr/bin/gh", "api.github.com:443", "PATCH", "/repos/o/r/issues/1", "", flow.Deny},
	{"base", "/usr/bin/gh", "api.github.com:443", "DELETE", "/repos/o/r", "", flow.Deny},
	{"openclaw", "/usr/bin/gh", "api.github.com:443", "GET", "/repos/o/r/issues", "per_page=5", flow.Allow},
	{"openclaw", "/usr/bin/gh", "api.github.com:443", "GET", "/", "", flow.Allow},
	{"openclaw", "/usr/bin/gh", "api.github.com:443", "HEAD", "/user", "", flow.Allow},
	{"openclaw", "/usr/bin/gh", "api.github.com:443", "OPTIONS", "/user", "", flow.Allow},
	{"openclaw", "/usr/bin/gh", "api.github.com:443", "POST", "/graphql", "", flow.Deny},
	{"openclaw", "/usr/bin/gh", "api.github.com:443", "POST", "/repos/OWNER/REPO/issues", "", flow.Deny},
	{"openclaw", "/usr/bin/gh", "api.github.com:443", "DELETE", "/repos/o/r", "", flow.Deny},
}

// TestRequests checks these, and that their connections are inspected ones.
func TestRequests(t *testing.T) {
	judges := map[string]judge{}
	for _, r := range requests {
		if judges[r.policy].engine == nil {
			judges[r.policy] = newJudge(t, r.policy)
		}
		j := judges[r.policy]
		j.expect(clean(r.program), r.to, inspected)
		query, err := url.ParseQuery(r.query)
		if err != nil {
			t.Fatal(err)
		}
		d := j.engine.DecideRequest(clean(r.program), parseTarget(t, r.to), flow.Request{Method: r.method, Path: r.path, Query: query})
		if d.Verdict != r.verdict {
			t.Errorf("%s: %s %s%s?%s by %s: %s %s by %q %s", r.policy, r.method, r.to, r.path, r.query, r.program,
				d.Verdict, d.Reason, d.Policy, d.Rule)
		}
	}
}

// TestLinks: a path that is a symbolic link stands for the file it leads to; where
// the sandbox can turn the link, only if the policy puts up with that.
func TestLinks(t *testing.T) {
	j := newJudge(t, "base")
	err := j.engine.Replace(t.Context(), j.engine.Policy(), []policy.Link{
		{Path: "/bin/bash", Target: "/usr/bin/bash"},
		{Path: "/sandbox/.venv/bin/python3", Target: "/usr/bin/python3.11", Writable: true},
		{Path: "/app/.venv/bin/python3", Target: "/usr/bin/python3.12"},
		{Path: "/app/.venv/bin/python", Target: "/usr/bin/python3.13", Writable: true},
		{Path: "/usr/local/bin/claude", Target: "/usr/bin/ruby", Writable: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path, to string
		reason   flow.Reason
	}{
		{"/usr/bin/bash", "integrate.api.nvidia.com:443", flow.ReasonAllowed},
		{"/usr/bin/python3.11", "pypi.org:443", flow.ReasonAllowed},
		{"/usr/bin/python3.11", "api.anthropic.com:443", flow.ReasonWrongBinary},
		{"/usr/bin/python3.12", "pypi.org:443", flow.ReasonAllowed},
		{"/usr/bin/python3.13", "pypi.org:443", flow.ReasonTaintedBinary},
		{"/usr/bin/ruby", "api.anthropic.com:443", flow.ReasonTaintedBinary},
		{"/usr/bin/ruby", "api.github.com:443", flow.ReasonTaintedBinary},
	} {
		j.expect(clean(test.path), test.to, test.reason)
	}
}
