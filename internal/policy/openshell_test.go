package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence/ringfence/internal/flow"
)

// The files of testdata/openshell are in the format that Ringfence takes over:
// they load as they are, and mean what they meant.

func TestOpenShellFilesLoad(t *testing.T) {
	files, err := filepath.Glob("testdata/openshell/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		openshell(t, filepath.Base(file))
	}
}

func openshell(t *testing.T, name string) *Engine {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/openshell", name))
	if err != nil {
		t.Fatal(err)
	}
	p, warnings, err := Load(Source{name, data})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		// What is not enforced is said; nothing else may be amiss.
		if !strings.Contains(w.Message, "not enforced by this version") && !strings.Contains(w.Message, "asks for request inspection") &&
			!strings.Contains(w.Message, "special-purpose") {
			t.Errorf("%s", w)
		}
	}
	e, err := NewEngine(t.Context(), p, Config{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// asked is one question to a file, and what is expected: "reason policy". With a
// request ("GET /path?q=v") it is for DecideRequest.
type asked struct {
	program, target, request string
	want                     string
}

func (a asked) decide(t *testing.T, e *Engine) *flow.Decision {
	t.Helper()
	id, to := program(a.program), target(t, a.target)
	if a.request == "" {
		return e.Decide(id, to)
	}
	return e.DecideRequest(id, to, parseRequest(t, a.request))
}

// parseRequest reads "METHOD /path?key=value&key=value".
func parseRequest(t *testing.T, text string) flow.Request {
	t.Helper()
	method, rest, ok := strings.Cut(text, " ")
	if !ok {
		t.Fatalf("%q is no request", text)
	}
	request := flow.Request{Method: method, Query: map[string][]string{}}
	path, query, _ := strings.Cut(rest, "?")
	request.Path = path
	for pair := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' }) {
		key, value, _ := strings.Cut(pair, "=")
		request.Query[key] = append(request.Query[key], value)
	}
	return request
}

func ask(t *testing.T, e *Engine, questions []asked) {
	t.Helper()
	for _, q := range questions {
		d := q.decide(t, e)
		if got := strings.TrimSpace(string(d.Reason) + " " + d.Policy); got != q.want {
			t.Errorf("%s to %s %s: got %s, want %s", q.program, q.target, q.request, got, q.want)
		}
		if (d.Reason == flow.ReasonAllowed) != (d.Verdict == flow.Allow) {
			t.Errorf("%s to %s %s: %s with %s", q.program, q.target, q.request, d.Verdict, d.Reason)
		}
	}
}

func TestOpenShellBase(t *testing.T) {
	e := openshell(t, "base.yaml")
	ask(t, e, []asked{
		// Layer 4.
		{"/usr/local/bin/claude", "statsig.anthropic.com:443", "", "allowed claude-code"},
		{"/usr/bin/node", "platform.claude.com:443", "", "allowed claude-code"},
		{"/usr/bin/node", "PLATFORM.Claude.com:443", "", "allowed claude-code"},
		{"/usr/bin/node", "platform.claude.com:80", "", "wrong_port claude-code"},
		{"/usr/bin/curl", "platform.claude.com:443", "", "wrong_binary claude-code"},
		{"/usr/bin/node", "claude.com:443", "", "no_endpoint"},
		{"/bin/bash", "integrate.api.nvidia.com:443", "", "allowed nvidia-inference"},
		{"/usr/local/bin/opencode", "integrate.api.nvidia.com:443", "", "allowed nvidia-inference"},
		{"/usr/bin/node", "integrate.api.nvidia.com:443", "", "allowed opencode"},
		{"/sandbox/.venv/bin/pip", "pypi.org:443", "", "allowed pypi"},
		{"/sandbox/.uv/python/cpython-3.12/bin/python3.12", "files.pythonhosted.org:443", "", "allowed pypi"},
		{"/sandbox/.uv/python", "files.pythonhosted.org:443", "", "allowed pypi"},
		{"/usr/bin/wget", "update.code.visualstudio.com:443", "", "allowed vscode"},
		{"/sandbox/.vscode-server/bin/abc/node", "marketplace.visualstudio.com:443", "", "allowed vscode"},
		{"/usr/bin/curl", "api2.cursor.sh:443", "", "allowed cursor"},
		{"/usr/bin/codex", "chatgpt.com:443", "", "allowed codex"},
		{"/usr/lib/node_modules/@openai/codex/bin/codex", "api.openai.com:443", "", "allowed codex"},
		{"/usr/lib/node_modules/other/x", "api.openai.com:443", "", "wrong_binary codex"},

		// The wildcards that the matcher of that time never matched.
		{"/usr/bin/wget", "az764295.vo.msecnd.net:443", "", "allowed vscode"},
		{"/usr/bin/wget", "ms-python.gallerycdn.vsassets.io:443", "", "allowed vscode"},
		{"/usr/bin/wget", "a.b.gallerycdn.vsassets.io:443", "", "no_endpoint"},
		{"/usr/bin/wget", "gallerycdn.vsassets.io:443", "", "no_endpoint"},
		{"/usr/bin/node", "registry.npmjs.org:443", "", "allowed opencode"},
		{"/usr/bin/node", "npmjs.org:443", "", "no_endpoint"},

		// One host for two programs, inspected for one of them.
		{"/usr/local/bin/uv", "github.com:443", "", "allowed pypi"},
		{"/usr/local/bin/uv", "api.github.com:443", "DELETE /", "allowed pypi"},
		{"/usr/bin/git", "github.com:443", "", "inspection_unavailable github-ssh-over-https"},

		// Requests: a star behind a path also stood for the query, which is apart now.
		{"/usr/bin/git", "github.com:443", "GET /o/r.git/info/refs?service=git-upload-pack", "allowed github-ssh-over-https"},
		{"/usr/bin/git", "github.com:443", "HEAD /o/r.git/info/refs", "allowed github-ssh-over-https"},
		{"/usr/bin/git", "github.com:443", "GET /info/refs", "allowed github-ssh-over-https"},
		{"/usr/bin/git", "github.com:443", "GET /o/r.git/info/refs/more", "no_rule github-ssh-over-https"},
		{"/usr/bin/git", "github.com:443", "POST /o/r.git/info/refs", "no_rule github-ssh-over-https"},
		{"/usr/bin/git", "github.com:443", "POST /o/r.git/git-upload-pack", "allowed github-ssh-over-https"},
		{"/usr/bin/git", "github.com:443", "POST /o/r.git/git-receive-pack", "no_rule github-ssh-over-https"},
		{"/usr/bin/git", "github.com:443", "GET /o%2Fr.git/info/refs", "encoded_slash github-ssh-over-https"},
		{"/usr/local/bin/claude", "api.anthropic.com:443", "DELETE /v1/anything", "allowed claude-code"},
		{"/usr/bin/gh", "api.github.com:443", "GET /user", "allowed github-rest-api"},
		{"/usr/bin/gh", "api.github.com:443", "OPTIONS /user", "allowed github-rest-api"},
		{"/usr/bin/gh", "api.github.com:443", "POST /user/repos", "no_rule github-rest-api"},
		{"/usr/bin/curl", "api.github.com:443", "GET /user", "wrong_binary github-rest-api"},
	})
	if user, group := e.Policy().Process(); user != "sandbox" || group != "sandbox" {
		t.Errorf("user %q, group %q", user, group)
	}
}

func TestOpenShellOpenClaw(t *testing.T) {
	ask(t, openshell(t, "openclaw.yaml"), []asked{
		{"/usr/bin/glab", "gitlab.mycorp.com:443", "", "allowed gitlab"},
		{"/usr/bin/curl", "www.nvidia.com:443", "", "allowed nvidia-web"},
		{"/any/program", "10.42.7.7:8080", "", "allowed cluster-pods"},
		{"/any/program", "10.43.7.7:8080", "", "no_endpoint"},
		{"/any/program", "10.42.7.7:443", "", "wrong_port cluster-pods"},
		{"/any/program", "inference.local:443", "POST /v1/chat/completions", "allowed inference"},
		{"/usr/bin/git", "github.com:443", "POST /example-org/example-repo.git/git-receive-pack", "allowed github-ssh-over-https"},
		{"/usr/bin/git", "github.com:443", "POST /other-org/example-repo.git/git-receive-pack", "no_rule github-ssh-over-https"},
		{"/usr/bin/gh", "api.github.com:443", "HEAD /repos", "allowed github-rest-api"},
		{"/usr/bin/gh", "api.github.com:443", "PATCH /repos/example-org/example-repo/issues/7", "allowed github-rest-api"},
		{"/usr/bin/gh", "api.github.com:443", "PATCH /repos/example-org/example-repo/issues/7/lock", "no_rule github-rest-api"},
		{"/usr/bin/gh", "api.github.com:443", "DELETE /repos/example-org/example-repo", "no_rule github-rest-api"},
	})
}

func TestOpenShellKitchenSink(t *testing.T) {
	ask(t, openshell(t, "kitchen_sink.yaml"), []asked{
		// Hosts.
		{"/usr/bin/curl", "plain.example.com:443", "", "allowed plain"},
		{"/usr/bin/curl", "many.example.com:8443", "", "allowed plain"},
		{"/usr/bin/curl", "many.example.com:8080", "", "wrong_port plain"},
		{"/usr/bin/curl", "x.example.com:443", "", "allowed plain"},
		{"/usr/bin/curl", "deep.example.com:443", "", "allowed plain"},
		{"/usr/bin/curl", "a.b.c.deep.example.com:443", "", "allowed plain"},
		{"/usr/bin/curl", "us-east-1.region.example.com:443", "", "allowed plain"},
		{"/usr/bin/curl", "eu-west-1.region.example.com:443", "", "no_endpoint"},
		{"/usr/bin/curl", "api.v2.example.com:443", "", "allowed plain"},
		{"/usr/bin/curl", "www.v2.example.com:443", "", "no_endpoint"},
		{"/usr/bin/curl", "192.0.2.10:5432", "", "allowed plain"},
		{"/usr/bin/curl", "[2001:db8:0:0::10]:5432", "", "allowed plain"},
		{"/usr/bin/curl", "database.example.com:5432", "", "allowed plain"},
		{"/usr/bin/curl", "pinned.example.com:443", "", "allowed plain"},
		{"/usr/bin/curl", "untouched.example.com:443", "", "allowed plain"},
		{"/usr/bin/curl", "automatic.example.com:443", "", "allowed plain"},

		// Programs.
		{"/usr/local/bin/agent", "plain.example.com:443", "", "allowed plain"},
		{"/usr/bin/tool", "plain.example.com:443", "", "allowed plain"},
		{"/opt/a/bin/b", "plain.example.com:443", "", "allowed plain"},
		{"/opt/a/b/bin/c", "plain.example.com:443", "", "wrong_binary plain"},
		{"/sandbox/tools/a/b", "plain.example.com:443", "", "allowed plain"},
		{"/sandbox/node", "plain.example.com:443", "", "allowed plain"},
		{"/sandbox/a/b/node", "plain.example.com:443", "", "allowed plain"},
		{"/sandbox/a/b/nodejs", "plain.example.com:443", "", "wrong_binary plain"},

		// Addresses in place of a name.
		{"/any", "10.42.0.1:8080", "", "allowed private"},
		{"/any", "10.43.0.1:8080", "", "allowed private"},
		{"/any", "10.44.0.1:8080", "", "no_endpoint"},
		{"/any", "172.20.1.1:9001", "", "allowed private"},
		{"/any", "172.20.1.1:8080", "", "wrong_port private"},
		{"/any", "10.1.0.1:443", "", "no_endpoint"}, // belongs to a name

		// Presets.
		{"/usr/bin/curl", "read.example.net:443", "GET /", "allowed presets"},
		{"/usr/bin/curl", "read.example.net:443", "HEAD /", "allowed presets"},
		{"/usr/bin/curl", "read.example.net:443", "POST /", "no_rule presets"},
		{"/usr/bin/curl", "write.example.net:443", "PATCH /", "allowed presets"},
		{"/usr/bin/curl", "full.example.net:443", "DELETE /", "allowed presets"},
		{"/usr/bin/curl", "plaintext.example.net:80", "GET /", "allowed presets"},
		{"/usr/bin/curl", "plaintext.example.net:80", "PUT /", "no_rule presets"},

		// Rules.
		{"/usr/bin/git", "rules.example.net:443", "POST /a/b.git/git-upload-pack", "allowed rules"},
		{"/usr/bin/git", "rules.example.net:443", "GET /where/ever", "allowed rules"},
		{"/usr/bin/git", "rules.example.net:443", "PUT /v1/x/items", "allowed rules"},
		{"/usr/bin/git", "rules.example.net:443", "PUT /v1/x/y/items", "no_rule rules"},
		{"/usr/bin/git", "rules.example.net:443", "DELETE /v1/items/7", "allowed rules"},
		{"/usr/bin/git", "rules.example.net:443", "DELETE /v1/items/7/8", "no_rule rules"},
		{"/usr/bin/git", "rules.example.net:443", "GET /v1/admin/users", "deny_rule rules"},
		{"/usr/bin/git", "rules.example.net:443", "HEAD /v1/admin/users", "deny_rule rules"},
		{"/usr/bin/git", "rules.example.net:443", "GET /v1/administration", "allowed rules"},
		{"/usr/bin/git", "rules.example.net:443", "POST /a/git-upload-pack?force=true", "deny_rule rules"},
		{"/usr/bin/git", "rules.example.net:443", "POST /a/git-upload-pack?force=false", "allowed rules"},
		{"/usr/bin/git", "rules.example.net:443", "POST /a/git-upload-pack?force=false&force=true", "deny_rule rules"},
		{"/usr/bin/git", "rules.example.net:443", "GET /search?kind=private-x", "deny_rule rules"},
		{"/usr/bin/git", "rules.example.net:443", "GET /search?kind=internal", "deny_rule rules"},
		{"/usr/bin/git", "rules.example.net:443", "GET /search?kind=internals", "allowed rules"},

		// By path.
		{"/usr/bin/curl", "shared.example.net:443", "POST /public/a", "allowed by-path"},
		{"/usr/bin/curl", "shared.example.net:443", "POST /publicity", "no_rule by-path"},
		{"/usr/bin/curl", "shared.example.net:443", "GET /publicity", "allowed by-path"},
		{"/usr/bin/curl", "shared.example.net:443", "GET /private/a", "deny_rule by-path"},
		{"/usr/bin/curl", "shared.example.net:443", "GET /a%2Fb", "encoded_slash by-path"},
		{"/usr/bin/curl", "encoded.example.net:443", "GET /a%2Fb", "allowed by-path"},
	})
}

// What only records says so.
func TestOpenShellAudit(t *testing.T) {
	e := openshell(t, "kitchen_sink.yaml")
	d := e.DecideRequest(program("/usr/bin/curl"), target(t, "write.example.net:443"), parseRequest(t, "DELETE /"))
	if d.Verdict != flow.Audit || d.Reason != flow.ReasonNoRule {
		t.Errorf("%+v", d)
	}
}

// The file, field by field, as it is kept.
func TestOpenShellFields(t *testing.T) {
	p := openshell(t, "kitchen_sink.yaml").Policy()
	anywhere := cmpopts.IgnoreUnexported(Filesystem{}, AllowRule{}, Rule{}) // where it stands
	wantFiles := Filesystem{ReadOnly: []ReadPath{"/usr", "/path with spaces", "/etc/"}, ReadWrite: []WritePath{"/tmp"}}
	if diff := cmp.Diff(wantFiles, *p.filesystem, anywhere); diff != "" {
		t.Errorf("filesystem_policy (-want +got)\n%s", diff)
	}
	if p.landlock.Compatibility != "best_effort" || p.process.RunAsUser != "sandbox" || p.process.RunAsGroup != "sandbox" {
		t.Errorf("landlock %+v, process %+v", p.landlock, p.process)
	}
	var names []string
	for _, n := range p.networks {
		names = append(names, n.key+"="+n.Name)
	}
	if want := "by_path=by-path plain=plain presets=presets private=private rules=rules"; strings.Join(names, " ") != want {
		t.Errorf("networks %v", names)
	}
	wantPaths := []string{"/usr/bin/curl", "/usr/bin/git", "/usr/bin/tool", "/usr/local/bin/agent"}
	if diff := cmp.Diff(wantPaths, p.ExactPaths()); diff != "" {
		t.Errorf("exact paths (-want +got)\n%s", diff)
	}
	rules := p.networks[4].Endpoints[0]
	wantRules := []AllowRule{
		{Allow: Rule{Method: "GET", Path: "/**/info/refs*"}},
		{Allow: Rule{Method: "POST", Path: "/**/git-upload-pack"}},
		{Allow: Rule{Method: "GET", Path: "**"}},
		{Allow: Rule{Method: "*", Path: "/v1/*/items"}},
		{Allow: Rule{Method: "DELETE", Path: "/v1/items/*"}},
		{Allow: Rule{Method: "GET", Path: "/search", Query: map[string]Matcher{"q": {"*"}, "kind": {"public-*"}, "sort": {"name", "date*"}}}},
	}
	wantDeny := []Rule{
		{Method: "GET", Path: "/v1/admin/**"},
		{Method: "POST", Path: "/**", Query: map[string]Matcher{"force": {"true"}}},
		{Method: "*", Path: "/search", Query: map[string]Matcher{"kind": {"private-*", "internal"}}},
	}
	if diff := cmp.Diff(wantRules, rules.Rules, anywhere); diff != "" {
		t.Errorf("rules (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(wantDeny, rules.DenyRules, anywhere); diff != "" {
		t.Errorf("deny_rules (-want +got)\n%s", diff)
	}
	scoped := p.networks[0].Endpoints
	if scoped[0].Path != "/public/**" || scoped[1].Path != "/**" || !scoped[2].AllowEncodedSlash || scoped[0].AllowEncodedSlash ||
		scoped[0].TLS != "terminate" || scoped[0].Enforcement != "enforce" || scoped[0].Protocol != "rest" || scoped[0].Access != "read-write" {
		t.Errorf("by_path: %+v", scoped)
	}
	private := p.networks[3].Endpoints
	if got := joinPrefixes(private[0].AllowedIPs); got != "10.1.0.0/16 192.168.7.7/32 fd00:1::/64" {
		t.Errorf("allowed_ips: %s", got)
	}
	if got := p.networks[1].Endpoints[9].TLS + " " + p.networks[1].Endpoints[10].TLS; got != "passthrough skip" {
		t.Errorf("tls: %s", got)
	}
	if bs := p.networks[1].Binaries; !bs[1].Harness || bs[2].Harness {
		t.Errorf("harness: %+v", bs)
	}
}

// Other protocols load, and their requests are refused until they can be judged;
// those that are only recorded as well.
func TestOpenShellProtocols(t *testing.T) {
	e := openshell(t, "protocols.yaml")
	for _, name := range []string{"websocket", "graphql", "mcp", "json-rpc"} {
		ask(t, e, []asked{
			{"/usr/bin/client", name + ".example.net:443", "", "inspection_unavailable protocols"},
			{"/usr/bin/client", name + ".example.net:443", "GET /", "inspection_unavailable protocols"},
		})
	}
	ask(t, e, []asked{{"/usr/bin/client", "sql.example.net:5432", "", "inspection_unavailable protocols"}})
}

func TestOpenShellMinimal(t *testing.T) {
	ask(t, openshell(t, "minimal.yaml"), []asked{
		{"/usr/bin/curl", "example.com:443", "", "no_endpoint"},
		{"/usr/bin/curl", "example.com:443", "GET /", "no_endpoint"},
	})
}
