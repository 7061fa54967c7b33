package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

const requestPolicy = `
network_policies:
  presets:
    binaries: [{path: /usr/bin/curl}]
    endpoints:
      - {host: read.test, port: 443, protocol: rest, access: read-only}
      - {host: write.test, port: 443, protocol: rest, access: read-write}
      - {host: full.test, port: 443, protocol: rest, access: full}
      - {host: audit.test, port: 443, protocol: rest, access: read-only, enforcement: audit, deny_rules: [{path: /no/**}]}
      - {host: slash.test, port: 443, protocol: rest, access: full, allow_encoded_slash: true, deny_rules: [{path: /no/**}]}
      - {host: chat.test, port: 443, protocol: websocket, access: full}
      - {host: plain.test, port: 443}
      - {host: terminated.test, port: 443, tls: terminate}
      - {host: implied.test, port: 443, access: read-only}
      - {host: 192.0.2.1, port: 443, protocol: rest, access: read-only}
      - {port: 8080, allowed_ips: [10.42.0.0/16], protocol: rest, access: read-only}
      - {host: "*.wild.test", port: 443, protocol: rest, access: read-only}
      - {host: special.wild.test, port: 443, protocol: rest, access: full}

  rules:
    binaries: [{path: /usr/bin/curl}]
    endpoints:
      - host: rules.test
        port: 443
        protocol: rest
        rules:
          - allow: {method: GET, path: "/**/info/refs*"}
          - allow: {method: post, path: /v1/*/items}
          - allow: {method: DELETE, path: "/v1/**"}
          - allow: {method: "*", path: /any}
          - allow: {path: /bare}
          - allow: {method: HEAD, path: /head}
          - allow: {method: OPTIONS}
          - allow: {method: PUT, path: "**/put"}
        deny_rules:
          - {method: GET, path: "/secret/**"}
          - {method: DELETE, path: /v1/kept}
          - {method: TRACE}
      - host: all.test
        port: 443
        protocol: rest
        rules: [{allow: {method: GET, path: "**"}}]
      - host: query.test
        port: 443
        protocol: rest
        rules:
          - allow: {method: GET, path: /one, query: {q: "a*"}}
          - allow: {method: GET, path: /two, query: {q: "a*", r: {any: [x, "y*"]}}}
          - allow: {method: GET, path: /star, query: {q: "*"}}
          - allow: {method: GET, path: /empty, query: {q: ""}}
          - allow: {method: GET, path: /free}
        deny_rules:
          - {path: /free, query: {force: "true"}}
          - {path: /free, query: {a: "1", b: {any: ["2", "3*"]}}}
          - {path: /free, query: {debug: "*"}}

  by_path:
    binaries: [{path: /usr/bin/curl}]
    endpoints:
      - {host: paths.test, port: 443, protocol: rest, access: read-only}
      - {host: paths.test, port: 443, protocol: rest, access: full, path: "/open/**"}
      - {host: paths.test, port: 443, protocol: rest, access: read-only, path: "/open/shut/**"}
      - {host: paths.test, port: 443, protocol: rest, access: read-only, path: "/log/**", enforcement: audit}
      - {host: paths.test, port: 443, protocol: websocket, access: full, path: "/ws/**"}
      - {host: paths.test, port: 443, protocol: rest, access: full, path: "/raw/**", allow_encoded_slash: true}
      - {host: some.test, port: 443, protocol: rest, access: full, path: "/api/**"}

  shared_a:
    binaries: [{path: /usr/bin/curl}, {path: /usr/bin/a}]
    endpoints: [{host: shared.test, port: 443, protocol: rest, rules: [{allow: {method: GET, path: "/a/**"}}], deny_rules: [{path: "/**/never"}]}]
  shared_b:
    binaries: [{path: /usr/bin/curl}, {path: /usr/bin/b}]
    endpoints: [{host: shared.test, port: 443, protocol: rest, rules: [{allow: {method: GET, path: "/b/**"}}, {allow: {path: "/both/**"}}]}]

  beside_plain:
    binaries: [{path: /usr/bin/agent}]
    endpoints: [{host: beside.test, port: 443}]
  beside_read:
    binaries: [{path: /usr/bin/tool}]
    endpoints: [{host: beside.test, port: 443, protocol: rest, access: read-only}]
`

func TestRequests(t *testing.T) {
	ask(t, engine(t, Config{}, requestPolicy), []asked{
		// Rules.
		{"/usr/bin/curl", "rules.test:443", "GET /o/r/info/refs", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "GET /o/r/info/refs?service=git-upload-pack", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "GET /info/refs", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "GET /info/refs2", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "GET /info/refs/x", "no_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "GET /xinfo/refs", "no_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "HEAD /o/info/refs", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "POST /v1/x/items", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "POST /v1//items", "allowed rules"}, // an empty segment is one
		{"/usr/bin/curl", "rules.test:443", "POST /v1/x/y/items", "no_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "POST /v1/x/items/", "no_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "post /v1/x/items", "no_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "DELETE /v1/", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "DELETE /v1", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "DELETE /v1/kept", "deny_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "DELETE /v1/kept/x", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "BREW /any", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "PATCH /bare", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "OPTIONS /where/ever", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "OPTIONS *", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "PUT /a/put", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "PUT /put", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "PUT /output", "no_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "GET /any\n", "no_rule rules"},

		// GET stands for HEAD, and HEAD not for GET; also where they are refused.
		{"/usr/bin/curl", "rules.test:443", "HEAD /head", "allowed rules"},
		{"/usr/bin/curl", "rules.test:443", "GET /head", "no_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "GET /secret/info/refs", "deny_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "HEAD /secret/info/refs", "deny_rule rules"},
		{"/usr/bin/curl", "rules.test:443", "TRACE /any", "deny_rule rules"},

		// Two stars alone are everything.
		{"/usr/bin/curl", "all.test:443", "GET /", "allowed rules"},
		{"/usr/bin/curl", "all.test:443", "GET /a/b/c", "allowed rules"},
		{"/usr/bin/curl", "all.test:443", "GET *", "allowed rules"},
		{"/usr/bin/curl", "all.test:443", "GET /\xff\n", "allowed rules"},
		{"/usr/bin/curl", "all.test:443", "POST /", "no_rule rules"},

		// A query that is allowed: every value of each key, and one at least.
		{"/usr/bin/curl", "query.test:443", "GET /one?q=a", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /one?q=a&q=abc", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /one?q=a&q=b", "no_rule rules"},
		{"/usr/bin/curl", "query.test:443", "GET /one", "no_rule rules"},
		{"/usr/bin/curl", "query.test:443", "GET /one?Q=a", "no_rule rules"},
		{"/usr/bin/curl", "query.test:443", "GET /one?q=a&other=1", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /two?q=a&r=x&r=yz", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /two?q=a&r=xz", "no_rule rules"},
		{"/usr/bin/curl", "query.test:443", "GET /two?q=a", "no_rule rules"},
		{"/usr/bin/curl", "query.test:443", "GET /star?q=", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /star?q=a/b", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /star", "no_rule rules"},
		{"/usr/bin/curl", "query.test:443", "GET /empty?q=", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /empty?q=a", "no_rule rules"},

		// A query that is refused: one value of each key is enough.
		{"/usr/bin/curl", "query.test:443", "GET /free", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /free?force=false", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /free?force=true", "deny_rule rules"},
		{"/usr/bin/curl", "query.test:443", "GET /free?force=false&force=true", "deny_rule rules"},
		{"/usr/bin/curl", "query.test:443", "GET /free?force=TRUE", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /free?a=1", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /free?a=1&b=0", "allowed rules"},
		{"/usr/bin/curl", "query.test:443", "GET /free?a=0&a=1&b=0&b=33", "deny_rule rules"},
		{"/usr/bin/curl", "query.test:443", "GET /free?debug", "deny_rule rules"},

		// Endpoints for paths: the one that says most of the path, then those without.
		{"/usr/bin/curl", "paths.test:443", "POST /else", "no_rule by_path"},
		{"/usr/bin/curl", "paths.test:443", "POST /open/a", "allowed by_path"},
		{"/usr/bin/curl", "paths.test:443", "POST /open", "allowed by_path"},
		{"/usr/bin/curl", "paths.test:443", "POST /open/shut/a", "no_rule by_path"},
		{"/usr/bin/curl", "paths.test:443", "GET /open/shut/a", "allowed by_path"},
		{"/usr/bin/curl", "paths.test:443", "GET /ws/a", "inspection_unavailable by_path"},
		{"/usr/bin/curl", "paths.test:443", "GET /raw/a%2Fb", "allowed by_path"},
		{"/usr/bin/curl", "paths.test:443", "GET /open/a%2Fb", "encoded_slash by_path"},
		{"/usr/bin/curl", "some.test:443", "GET /api/x", "allowed by_path"},
		{"/usr/bin/curl", "some.test:443", "GET /else", "no_rule by_path"},

		// Two policies for one host: a program has the rules of those that name it.
		{"/usr/bin/curl", "shared.test:443", "GET /a/x", "allowed shared_a"},
		{"/usr/bin/curl", "shared.test:443", "GET /b/x", "allowed shared_b"},
		{"/usr/bin/curl", "shared.test:443", "GET /both/never", "deny_rule shared_a"},
		{"/usr/bin/curl", "shared.test:443", "GET /c", "no_rule shared_a"},
		{"/usr/bin/a", "shared.test:443", "GET /b/x", "no_rule shared_a"},
		{"/usr/bin/b", "shared.test:443", "GET /b/x", "allowed shared_b"},
		{"/usr/bin/b", "shared.test:443", "GET /both/never", "allowed shared_b"},
		{"/usr/bin/b", "shared.test:443", "GET /a/x", "no_rule shared_b"},
		{"/usr/bin/c", "shared.test:443", "GET /a/x", "wrong_binary shared_a"},

		// Layer 4 for one program, inspected for another.
		{"/usr/bin/agent", "beside.test:443", "DELETE /", "allowed beside_plain"},
		{"/usr/bin/tool", "beside.test:443", "DELETE /", "no_rule beside_read"},

		// Kinds of endpoints.
		{"/usr/bin/curl", "plain.test:443", "DELETE /a%2Fb", "allowed presets"},
		{"/usr/bin/curl", "terminated.test:443", "DELETE /", "allowed presets"},
		{"/usr/bin/curl", "implied.test:443", "GET /", "allowed presets"},
		{"/usr/bin/curl", "implied.test:443", "POST /", "no_rule presets"},
		{"/usr/bin/curl", "chat.test:443", "GET /", "inspection_unavailable presets"},
		{"/usr/bin/curl", "192.0.2.1:443", "POST /", "no_rule presets"},
		{"/usr/bin/curl", "10.42.1.1:8080", "GET /", "allowed presets"},
		{"/usr/bin/curl", "10.42.1.1:8080", "POST /", "no_rule presets"},
		{"/usr/bin/curl", "x.wild.test:443", "POST /", "no_rule presets"},
		{"/usr/bin/curl", "special.wild.test:443", "POST /", "allowed presets"}, // the more specific alone

		// The connection is asked first.
		{"/usr/bin/wget", "read.test:443", "GET /", "wrong_binary presets"},
		{"/usr/bin/curl", "read.test:80", "GET /", "wrong_port presets"},
		{"/usr/bin/curl", "else.test:443", "GET /", "no_endpoint"},

		// Encoded slashes.
		{"/usr/bin/curl", "full.test:443", "GET /a%2Fb", "encoded_slash presets"},
		{"/usr/bin/curl", "full.test:443", "GET /a%2fb", "encoded_slash presets"},
		{"/usr/bin/curl", "full.test:443", "GET /a%252Fb", "allowed presets"},
		{"/usr/bin/curl", "full.test:443", "GET /a?next=%2Fb", "allowed presets"},
		{"/usr/bin/curl", "slash.test:443", "GET /a%2Fb", "allowed presets"},
		{"/usr/bin/curl", "slash.test:443", "GET /no/%2Fb", "deny_rule presets"},
	})
	// A program with both as ancestors is inspected.
	e := engine(t, Config{}, requestPolicy)
	both := program("/usr/bin/tool", "/usr/bin/agent")
	if d := e.DecideRequest(both, target(t, "beside.test:443"), flow.Request{Method: "DELETE", Path: "/"}); d.Reason != flow.ReasonNoRule || d.Policy != "beside_read" {
		t.Errorf("%+v", d)
	}
}

func TestPresets(t *testing.T) {
	e := engine(t, Config{}, requestPolicy)
	methods := []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "get", ""}
	for host, want := range map[string][]string{"read.test": methods[:3], "write.test": methods[:6], "full.test": methods} {
		for _, method := range methods {
			d := e.DecideRequest(program("/usr/bin/curl"), flow.Target{Host: host, Port: 443}, flow.Request{Method: method, Path: "/a"})
			wantReason, wantRule := flow.ReasonNoRule, ""
			if slices.Contains(want, method) {
				wantReason, wantRule = flow.ReasonAllowed, "access"
			}
			if d.Reason != wantReason || d.Rule != wantRule {
				t.Errorf("%s of %s: %s by %q", method, host, d.Reason, d.Rule)
			}
		}
	}
}

// What is only recorded passes, and says what would have refused it; what has two
// readings does not pass even so.
func TestAudit(t *testing.T) {
	e := engine(t, Config{}, requestPolicy)
	for _, test := range []struct {
		host, request string
		verdict       flow.Verdict
		reason        flow.Reason
		rule          string
	}{
		{"audit.test", "GET /", flow.Allow, flow.ReasonAllowed, "access"},
		{"audit.test", "POST /", flow.Audit, flow.ReasonNoRule, ""},
		{"audit.test", "GET /no/a", flow.Audit, flow.ReasonDenyRule, "deny_rules[0]"},
		{"audit.test", "GET /a%2Fb", flow.Deny, flow.ReasonEncodedSlash, ""},
		{"paths.test", "POST /log/a", flow.Audit, flow.ReasonNoRule, ""},
		{"paths.test", "POST /else", flow.Deny, flow.ReasonNoRule, ""},
	} {
		d := e.DecideRequest(program("/usr/bin/curl"), flow.Target{Host: test.host, Port: 443}, parseRequest(t, test.request))
		if d.Verdict != test.verdict || d.Reason != test.reason || d.Rule != test.rule || !d.Inspect {
			t.Errorf("%s of %s: %+v", test.request, test.host, d)
		}
	}
}

// One endpoint that enforces is enough: two may judge a request only where their
// hosts differ, for equal ones that disagree do not load.
func TestAuditBesideEnforce(t *testing.T) {
	e := engine(t, Config{}, `
network_policies:
  a:
    binaries: [{path: /usr/bin/a}]
    endpoints: [{host: x.test, port: 443, protocol: rest, access: read-only, enforcement: audit}]
  b:
    binaries: [{path: /usr/bin/b}]
    endpoints: [{host: x.test, port: 443, protocol: rest, access: read-only}]
`)
	for _, test := range []struct {
		id   *flow.Identity
		want flow.Verdict
	}{
		{program("/usr/bin/a"), flow.Audit},
		{program("/usr/bin/b"), flow.Deny},
		{program("/usr/bin/a", "/usr/bin/b"), flow.Deny},
		{program("/usr/bin/b", "/usr/bin/a"), flow.Deny},
	} {
		if d := e.DecideRequest(test.id, target(t, "x.test:443"), flow.Request{Method: "POST", Path: "/"}); d.Verdict != test.want {
			t.Errorf("%s: %+v", test.id.Path, d)
		}
	}
}

func TestRequestsThatNoPolicyIsAskedAbout(t *testing.T) {
	e := engine(t, Config{ControlPlane: target(t, "read.test:443")}, requestPolicy)
	request := flow.Request{Method: "DELETE", Path: "/"}
	if d := e.DecideRequest(program("/any"), target(t, "read.test:443"), request); d.Verdict != flow.Allow || d.Engine != flow.EngineControlPlane {
		t.Errorf("control plane: %+v", d)
	}
	if d := e.DecideRequest(program("/any"), target(t, "read.test:444"), request); d.Verdict != flow.Deny || d.Engine != flow.EngineOPA {
		t.Errorf("control plane, other port: %+v", d)
	}
	for _, to := range []string{"read.test:443", "full.test:443"} {
		if d := e.DecideRequest(nil, target(t, to), request); d.Verdict != flow.Deny || d.Reason != flow.ReasonNoIdentity || d.Engine != flow.EngineIdentity || d.Hint == "" {
			t.Errorf("%s, no identity: %+v", to, d)
		}
	}
}

// A failure of the engine denies requests too.
func TestRequestPolicyError(t *testing.T) {
	e := engine(t, Config{}, requestPolicy)
	e.current.Load().patience = noPatience
	d := e.DecideRequest(program("/usr/bin/curl"), target(t, "full.test:443"), get("/"))
	if d.Verdict != flow.Deny || d.Reason != flow.ReasonPolicyError || d.Hint == "" {
		t.Errorf("%+v", d)
	}
}

// A denial says what to do about it, in one line that no terminal obeys.
func TestRequestHints(t *testing.T) {
	e := engine(t, Config{}, requestPolicy)
	for _, test := range []struct {
		program, host, request string
		want                   []string
	}{
		{"/usr/bin/curl", "rules.test", "GET /x", []string{"policy rules does not allow \"GET\" \"/x\"", "network_policies.rules.endpoints[0]"}},
		{"/usr/bin/curl", "rules.test", "GET /\x1b[2J\xff", []string{`"GET" "/\x1b[2J\xff"`}},
		{"/usr/bin/curl", "rules.test", "GET /" + strings.Repeat("x", 5000), []string{`x\u2026"`}},
		{"/usr/bin/curl", "rules.test", "DELETE /v1/kept", []string{"policy rules refuses it", "deny_rules[1]", "network_policies.rules.endpoints[0]"}},
		{"/usr/bin/curl", "full.test", "GET /a%2Fb", []string{"%2F", "policy presets", "allow_encoded_slash"}},
		{"/usr/bin/curl", "chat.test", "GET /", []string{"policy presets", "protocol", "this version does not read"}},
		{"/usr/bin/curl", "audit.test", "POST /", []string{"policy presets does not allow", "widen access"}},
		{"/usr/bin/wget", "read.test", "GET /", []string{"policy presets opens read.test:443 for other programs", `{path: "/usr/bin/wget"}`}},
		{"/usr/bin/curl", "else.test", "GET /", []string{"no policy names else.test", "port: 443", `"/usr/bin/curl"`}},
	} {
		d := e.DecideRequest(program(test.program), flow.Target{Host: test.host, Port: 443}, parseRequest(t, test.request))
		for _, want := range test.want {
			if !strings.Contains(d.Hint, want) {
				t.Errorf("%.40q of %s: the hint has no %q:\n%s", test.request, test.host, want, d.Hint)
			}
		}
		if len(d.Hint) > 700 || strings.Contains(d.Hint, "\n") {
			t.Errorf("%.40q: hint of %d bytes: %.800s", test.request, len(d.Hint), d.Hint)
		}
		checkText(t, d.Hint)
	}
	if d := e.DecideRequest(program("/usr/bin/curl"), target(t, "full.test:443"), get("/")); d.Hint != "" {
		t.Errorf("what is allowed has a hint: %s", d.Hint)
	}
}

// The first rule that matches is named, by the file's numbers.
func TestRuleIsTheFirst(t *testing.T) {
	var allow, deny strings.Builder
	for i := range 12 {
		path := "/x"
		if i >= 2 {
			path = "/**"
		}
		allow.WriteString("          - allow: {method: GET, path: \"" + path + "\"}\n")
		deny.WriteString("          - {method: DELETE, path: \"" + path + "\"}\n")
	}
	e := engine(t, Config{}, "\nnetwork_policies:\n  p:\n    binaries: [{path: /x}]\n    endpoints:\n      - host: x.test\n        port: 443\n        protocol: rest\n"+
		"        rules:\n"+allow.String()+"        deny_rules:\n"+deny.String())
	for request, want := range map[string]string{
		"GET /x": "rules[0]", "GET /y": "rules[2]", "DELETE /x": "deny_rules[0]", "DELETE /y": "deny_rules[2]",
	} {
		if d := e.DecideRequest(program("/x"), target(t, "x.test:443"), parseRequest(t, request)); d.Rule != want {
			t.Errorf("%s: %s, want %s", request, d.Rule, want)
		}
	}
}
