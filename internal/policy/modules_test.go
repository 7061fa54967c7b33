package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

const modulesPolicy = `
network_policies:
  open:
    binaries: [{path: /usr/bin/curl}]
    endpoints: [{host: open.example.com, ports: [443, 8443]}]
  read:
    binaries: [{path: /usr/bin/curl}]
    endpoints:
      - {host: read.example.com, port: 443, protocol: rest, access: read-only}
      - {host: audit.example.com, port: 443, protocol: rest, access: read-only, enforcement: audit}
`

// regoSources returns modules as the sources 0.rego, 1.rego …; one that names no package
// is of package ringfence.custom.
func regoSources(texts ...string) []Source {
	sources := make([]Source, len(texts))
	for i, text := range texts {
		if !strings.HasPrefix(text, "package ") {
			text = "package ringfence.custom\n" + text
		}
		sources[i] = Source{fmt.Sprintf("%d.rego", i), []byte(text)}
	}
	return sources
}

// narrowedEngine returns an engine on modulesPolicy and modules of an operator's.
func narrowedEngine(t *testing.T, modules ...string) *Engine {
	t.Helper()
	p, err := load(t, modulesPolicy).WithModules(regoSources(modules...))
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEngine(t.Context(), p, Config{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func get(path string) flow.Request { return flow.Request{Method: "GET", Path: path} }

func TestModulesNarrowConnections(t *testing.T) {
	const library = "package ringfence.custom.lib\nimport data.ringfence.custom.lib.ports\nodd if not input.network.port in ports.usual"
	const ports = "package ringfence.custom.lib.ports\nusual := {443}"
	for _, test := range []struct {
		name    string
		modules []string
		target  string
		want    string // in the hint; nothing where it is allowed
	}{
		{"host", []string{`deny contains "not there" if input.network.host == "open.example.com"`}, "open.example.com:443", `"not there"`},
		{"host, another", []string{`deny contains "not there" if input.network.host == "else.example.com"`}, "open.example.com:443", ""},
		{"port", []string{`deny contains sprintf("port %d", [input.network.port]) if input.network.port > 1024`}, "open.example.com:8443", `"port 8443"`},
		{"port, another", []string{`deny contains "port" if input.network.port > 1024`}, "open.example.com:443", ""},
		{"program", []string{`deny contains input.exec.path if endswith(input.exec.path, "/curl")`}, "open.example.com:443", `"/usr/bin/curl"`},
		{"user", []string{`deny contains "user" if input.exec.uid == 1000`}, "open.example.com:443", `"user"`},
		{"ancestor", []string{`deny contains a.path if { some a in input.exec.ancestors; a.path == "/bin/sh" }`}, "open.example.com:443", `"/bin/sh"`},
		{"no address of a name", []string{`deny contains "address" if input.network.address`}, "open.example.com:443", ""},
		{"the ruling", []string{`deny contains data.ringfence.network.ruling.policy`}, "open.example.com:443", `"open"`},
		{"a request that is none", []string{`deny contains "request" if input.request`}, "open.example.com:443", ""},
		{"several messages, sorted", []string{`deny contains "b"` + "\n" + `deny contains "a"`}, "open.example.com:443", `"a", "b"`},
		{"over modules", []string{`deny contains "one"`, `deny contains "two"`}, "open.example.com:443", `"one", "two"`},
		{"helper over modules", []string{`deny contains "bad" if bad`, `bad if input.network.port == 8443`, `bad if input.network.port == 80`}, "open.example.com:8443", `"bad"`},
		{"helper packages", []string{"import data.ringfence.custom.lib\n" + `deny contains "odd port" if lib.odd`, library, ports}, "open.example.com:8443", `"odd port"`},
		{"helper packages, nothing odd", []string{"import data.ringfence.custom.lib\n" + `deny contains "odd port" if lib.odd`, library, ports}, "open.example.com:443", ""},
		{"a package that imports itself", []string{"import data.ringfence.custom\n" + `deny contains custom.why` + "\n" + `why := "so"`}, "open.example.com:443", `"so"`},
		{"printing does nothing", []string{`deny contains "x" if { print("x"); false }`}, "open.example.com:443", ""},
		{"nothing is denied", []string{`deny contains "x" if false`}, "open.example.com:443", ""},

		{"a number", []string{`deny contains 7`}, "open.example.com:443", `"7"`},
		{"false", []string{`deny contains false`}, "open.example.com:443", `"false"`},
		{"null", []string{`deny contains null`}, "open.example.com:443", `"null"`},
		{"the empty text", []string{`deny contains ""`}, "open.example.com:443", `""`},
		{"the empty set", []string{`deny contains set()`}, "open.example.com:443", `"set()"`},
		{"an object", []string{`deny contains {"why": ["this", 1]}`}, "open.example.com:443", `"{\"why\": [\"this\", 1]}"`},
		{"what a terminal obeys", []string{`deny contains "\u001b[2J\u202e\u009b"`}, "open.example.com:443", `"\x1b[2J\u202e\u009b"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := narrowedEngine(t, test.modules...)
			d := e.Decide(program("/usr/bin/curl", "/bin/sh"), target(t, test.target))
			want := &flow.Decision{
				Verdict: flow.Allow, Engine: flow.EngineOPA, Reason: flow.ReasonAllowed, Generation: 1,
				Policy: "open", Endpoint: "network_policies.open.endpoints[0]",
			}
			if test.want != "" {
				want.Verdict, want.Reason = flow.Deny, flow.ReasonCustomRule
				want.Hint = "denied by a rule of the operator's: " + test.want
			}
			if diff := cmp.Diff(want, d); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestModulesNarrowRequests(t *testing.T) {
	e := narrowedEngine(t, `
deny contains "no secrets" if startswith(input.request.path, "/secret/")
deny contains sprintf("%s of %s", [input.request.method, input.network.host]) if input.request.method == "OPTIONS"
deny contains "no tokens" if count(input.request.query.token) > 0
deny contains "no deletion" if { input.request.method == "DELETE"; data.ringfence.request.ruling.verdict == "audit" }
deny contains "not by node" if { input.exec.path == "/usr/bin/node"; input.request }`)
	curl, node := program("/usr/bin/curl"), program("/usr/bin/node", "/usr/bin/curl")
	for _, test := range []struct {
		name    string
		id      *flow.Identity
		host    string
		request flow.Request
		verdict flow.Verdict
		reason  flow.Reason
		hint    string
	}{
		{"allowed", curl, "read", get("/a"), flow.Allow, flow.ReasonAllowed, ""},
		{"path", curl, "read", get("/secret/a"), flow.Deny, flow.ReasonCustomRule, `"no secrets"`},
		{"method", curl, "read", flow.Request{Method: "OPTIONS", Path: "/"}, flow.Deny, flow.ReasonCustomRule, `"OPTIONS of read.example.com"`},
		{"query", curl, "read", flow.Request{Method: "GET", Path: "/", Query: map[string][]string{"token": {"x"}}}, flow.Deny, flow.ReasonCustomRule, `"no tokens"`},
		{"query, another", curl, "read", flow.Request{Method: "GET", Path: "/", Query: map[string][]string{"q": {"x"}}}, flow.Allow, flow.ReasonAllowed, ""},
		{"program", node, "read", get("/a"), flow.Deny, flow.ReasonCustomRule, `"not by node"`},
		{"what would be recorded", curl, "audit", flow.Request{Method: "DELETE", Path: "/"}, flow.Deny, flow.ReasonCustomRule, `"no deletion"`},
		{"what is recorded", curl, "audit", flow.Request{Method: "PUT", Path: "/"}, flow.Audit, flow.ReasonNoRule, "add a rule"},
		{"what is denied anyway", curl, "read", flow.Request{Method: "PUT", Path: "/secret/a"}, flow.Deny, flow.ReasonNoRule, "add a rule"},
		{"where nothing is inspected", curl, "open", get("/secret/a"), flow.Deny, flow.ReasonCustomRule, `"no secrets"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := e.DecideRequest(test.id, flow.Target{Host: test.host + ".example.com", Port: 443}, test.request)
			if d.Verdict != test.verdict || d.Reason != test.reason || !strings.Contains(d.Hint, test.hint) {
				t.Errorf("got %s %s %q, want %s %s %q", d.Verdict, d.Reason, d.Hint, test.verdict, test.reason, test.hint)
			}
		})
	}
	if d := e.Decide(node, target(t, "open.example.com:443")); d.Verdict != flow.Allow {
		t.Errorf("what is said of requests denies a connection: %+v", d)
	}
}

// Whatever modules say, what the policy denies stays denied, and for its own
// reason; what it allows is either as it was, or denied by the modules.
func TestModulesCannotAllow(t *testing.T) {
	plain := engine(t, Config{}, modulesPolicy)
	var connections []flow.Target
	for _, host := range []string{"open.example.com", "read.example.com", "else.example.com", "audit.example.com"} {
		for _, port := range []uint16{443, 8443, 80} {
			connections = append(connections, flow.Target{Host: host, Port: port})
		}
	}
	ids := []*flow.Identity{program("/usr/bin/curl"), program("/usr/bin/wget"), nil,
		flow.NewIdentity(flow.Image{Path: "/usr/bin/curl", Taints: flow.TaintMemfd}, 1, 1, nil)}
	for name, modules := range map[string][]string{
		"allow":                 {"allow := true\ndeny contains 1 if not allow"},
		"allow as a set":        {`allow contains "all"` + "\ndeny contains 1 if false"},
		"names of ours":         {"decision := {\"verdict\": \"allow\"}\nruling := decision\ngranted := 0\nnarrowed(_) := decision\nobjections := []\ndeny contains 1 if false"},
		"another input":         {`deny contains "x" if data.ringfence.network.ruling.verdict == "allow" with input as {}`},
		"another ruling":        {`deny contains "x" if data.ringfence.network.ruling.verdict == "allow" with data.ringfence.network.ruling as {"verdict": "allow"}`},
		"another request":       {`deny contains "x" if data.ringfence.request.ruling.verdict == "allow" with input.request as {"method": "GET", "path": "/"}`},
		"other functions":       {`deny contains "x" if data.ringfence.network.ruling.verdict == "allow" with net.cidr_contains as true with regex.match as true`},
		"their own index":       {"deny contains 1 if false", "package ringfence.custom.ringfence.index\nendpoints := []"},
		"a set that is emptied": {"deny contains message if { some message in messages }\nmessages := set() if true\nmessages := set() if input"},
	} {
		t.Run(name, func(t *testing.T) {
			e := narrowedEngine(t, modules...)
			for _, id := range ids {
				for _, to := range connections {
					sameOrCustom(t, plain.Decide(id, to), e.Decide(id, to))
					for _, method := range []string{"GET", "POST"} {
						request := flow.Request{Method: method, Path: "/a"}
						sameOrCustom(t, plain.DecideRequest(id, to, request), e.DecideRequest(id, to, request))
					}
				}
			}
		})
	}
}

func sameOrCustom(t *testing.T, plain, narrowed *flow.Decision) {
	t.Helper()
	if plain.Verdict.Passes() && narrowed.Verdict == flow.Deny && narrowed.Reason == flow.ReasonCustomRule {
		return
	}
	if diff := cmp.Diff(plain, narrowed); diff != "" {
		t.Errorf("(-without modules, +with)\n%s", diff)
	}
}

// A module that fails denies what the policy allows, and nothing is remembered.
func TestModuleThatFailsDenies(t *testing.T) {
	for name, test := range map[string]struct{ module, want string }{
		"division by zero":     {`deny contains "x" if 1 / (input.network.port - 443) == 1`, "divide by zero"},
		"conflicting outputs":  {"x := 1 if input.network\nx := 2 if input.exec\n" + `deny contains "x" if x == 3`, "conflicting values"},
		"conflicting function": {"f(_) := 1\nf(x) := 2 if x > 0\n" + `deny contains "x" if f(input.network.port) == 3`, "conflicting values"},
		"no expression":        {`deny contains "x" if regex.match(input.exec.path, input.network.host) with input.exec.path as "("`, "missing closing"},
		"far too long":         {`deny contains "x" if to_number(concat("", [input.exec.path | some _ in numbers.range(1, 1000)])) == 1`, "…"},
		"after a message":      {`deny contains "x"` + "\n" + `deny contains "y" if 1 / (input.network.port - 443) == 1`, "divide by zero"},
	} {
		t.Run(name, func(t *testing.T) {
			e := narrowedEngine(t, test.module)
			id := program("/usr/bin/curl")
			d := e.Decide(id, target(t, "open.example.com:443"))
			if d.Verdict != flow.Deny || d.Reason != flow.ReasonPolicyError || d.Engine != flow.EngineOPA || d.Generation != 1 {
				t.Errorf("%+v", d)
			}
			if !strings.Contains(d.Hint, strings.ReplaceAll(test.want, "…", `\u2026`)) || len(d.Hint) > 400 {
				t.Errorf("hint of %d bytes: %.500s", len(d.Hint), d.Hint)
			}
			if e.Decide(id, target(t, "open.example.com:443")) != d {
				t.Error("who comes at the same time fails anew")
			}
			forgetFailures(e)
			if e.Decide(id, target(t, "open.example.com:443")) == d {
				t.Error("the failure is remembered")
			}
			if d := e.DecideRequest(id, target(t, "read.example.com:443"), get("/")); d.Verdict != flow.Deny || d.Reason != flow.ReasonPolicyError {
				t.Errorf("request: %+v", d)
			}
			if d := e.Decide(id, target(t, "else.example.com:443")); d.Reason != flow.ReasonNoEndpoint {
				t.Errorf("what is denied anyway asks the module: %+v", d)
			}
		})
	}
}

// What does not come to an end is cut, and denied. This takes customTimeout.
func TestModuleWithoutEndIsCut(t *testing.T) {
	e := narrowedEngine(t, `deny contains "x" if {
	all := numbers.range(1, 10000)
	some i in all
	some j in all
	some k in all
	i + j + k == 0
}`)
	d := e.Decide(program("/usr/bin/curl"), target(t, "open.example.com:443"))
	if d.Verdict != flow.Deny || d.Reason != flow.ReasonPolicyError || !strings.Contains(d.Hint, "cancel") {
		t.Errorf("%+v", d)
	}
	if !e.Declares("open.example.com") {
		t.Error("a name is not declared, because of a module that is not asked")
	}
}

func TestMessagesOfModulesAreBounded(t *testing.T) {
	e := narrowedEngine(t, `deny contains sprintf("%04d", [i]) if some i in numbers.range(1, 1000)`)
	d := e.Decide(program("/usr/bin/curl"), target(t, "open.example.com:443"))
	if want := `denied by a rule of the operator's: "0001", "0002", "0003", and 997 more`; d.Hint != want {
		t.Errorf("got  %s\nwant %s", d.Hint, want)
	}
	e = narrowedEngine(t, `deny contains concat("", ["\u001b" | some _ in numbers.range(1, 100000)])`)
	d = e.Decide(program("/usr/bin/curl"), target(t, "open.example.com:443"))
	if d.Reason != flow.ReasonCustomRule || len(d.Hint) > 2000 {
		t.Errorf("%s, hint of %d bytes", d.Reason, len(d.Hint))
	}
	checkText(t, d.Hint)
}

func TestDecisionsOfModulesAreRemembered(t *testing.T) {
	e := narrowedEngine(t, `deny contains "high" if input.network.port > 1024`)
	for text, want := range map[string]flow.Verdict{"open.example.com:443": flow.Allow, "open.example.com:8443": flow.Deny} {
		d := e.Decide(program("/usr/bin/curl"), target(t, text))
		if d.Verdict != want || e.Decide(program("/usr/bin/curl"), target(t, text)) != d {
			t.Errorf("%s: %+v", text, d)
		}
	}
}

// Modules come with the policy, and go with it.
func TestModulesAreReplaced(t *testing.T) {
	p := load(t, modulesPolicy)
	strict, err := p.WithModules(regoSources(`deny contains "no"`))
	if err != nil {
		t.Fatal(err)
	}
	bare, err := strict.WithModules(nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEngine(t.Context(), p, Config{})
	if err != nil {
		t.Fatal(err)
	}
	id, to := program("/usr/bin/curl"), target(t, "open.example.com:443")
	for i, step := range []struct {
		policy *Policy
		want   flow.Verdict
	}{{p, flow.Allow}, {strict, flow.Deny}, {p, flow.Allow}, {strict, flow.Deny}, {bare, flow.Allow}} {
		if err := e.Replace(t.Context(), step.policy, nil); err != nil {
			t.Fatal(err)
		}
		if d := e.Decide(id, to); d.Verdict != step.want || d.Generation != uint64(i+2) {
			t.Errorf("step %d: %+v", i, d)
		}
	}
}
