package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/policies"
)

// What modules may not be is refused when they are loaded, with a place and, where
// people get it wrong, with what to write instead.
func TestModulesAreRefused(t *testing.T) {
	const set = `deny must be a set of messages: write "deny contains message if { ... }"`
	const none = "no module defines deny in package ringfence.custom, so they would do nothing"
	outside := func(name string) string {
		return fmt.Sprintf("0.rego:1:1: is package %q; write \"package ringfence.custom\": modules can only narrow what a policy allows", name)
	}
	denyIf := func(body string) string { return "deny contains message if {\n\tmessage := " + body + "\n}" }
	recursive := "0.rego:2:1: rego_recursion_error: rule data.ringfence.custom.deny "
	for _, test := range []struct {
		name, module string
		want         string // the start of the error
	}{
		{"package of connections", "package ringfence.network\ndecision := 1", outside("ringfence.network")},
		{"package of requests", "package ringfence.request\ndecision := 1", outside("ringfence.request")},
		{"package of the policy", "package ringfence.index\nhosts := {}", outside("ringfence.index")},
		{"package above", "package ringfence\ncustom.deny contains 1", outside("ringfence")},
		{"package beside", "package ringfence.customs\ndeny contains 1", outside("ringfence.customs")},
		{"package with a space", "package ringfence[\"custom deny\"]\ndeny contains 1", `0.rego:1:1: is package "ringfence[\"custom deny\"]"`},
		{"package that starts with data", "package data.ringfence.custom\ndeny contains 1", outside("data.ringfence.custom")},
		{"package of OPA itself", "package system\nx := 1", outside("system")},
		{"package of somebody else", "package main\ndeny contains 1", outside("main")},

		{"deny is true", "deny := true", "0.rego:2:1: " + set},
		{"deny is a condition", "deny if input.network.port == 25", "0.rego:2:1: " + set},
		{"deny is a function", "deny(x) := x", "0.rego:2:1: " + set},
		{"deny has a default", "default deny := false", "0.rego:2:1: " + set},
		{"deny has an else", `deny := "a" if false else := "b"`, "0.rego:2:1: " + set},
		{"deny is a list", `deny := ["a"]`, "0.rego:2:1: " + set},
		{"deny is a set by value", `deny := {"a"}`, "0.rego:2:1: " + set},
		{"deny is an object", `deny := {"a": "b"}`, "0.rego:2:1: " + set},
		{"deny is an object by rules", `deny[x] := y if some x, y in input.exec`, "0.rego:2:1: " + set},
		{"deny is a map to true", `deny[x] if some x in ["a"]`, "0.rego:2:1: " + set},
		{"deny has parts", "deny.hosts contains 1", "0.rego:2:1: " + set},
		{"deny is also something else", "deny contains 1\ndeny.hosts := 1", "0.rego:3:1: " + set},
		{"deny is a set with an else", "deny contains 1 if false else := 2", "0.rego:2:26: rego_parse_error: else keyword cannot be used on multi-value rules"},
		{"no deny", "allow := true", "0.rego:1:1: " + none},
		{"no rules", "package ringfence.custom", "0.rego:1:1: " + none},
		{"deny in a package below", "package ringfence.custom.lib\ndeny contains 1", "0.rego:1:1: " + none},
		{"deny as a package", "package ringfence.custom.deny\nhosts contains 1", "0.rego:1:1: " + none},
		{"deny in a package called deny", "package ringfence.custom.deny\ndeny contains 1", "0.rego:1:1: " + none},

		{"a part of the input that is not there", `deny contains "x" if input.netwrok.port == 25`, "0.rego:2:22: rego_type_error: undefined ref: input.netwrok.port"},
		{"a field of an image that is not there", `deny contains "x" if input.exec.ancestors[_].pth == "/x"`, "0.rego:2:22: rego_type_error: undefined ref: input.exec.ancestors[_].pth"},
		{"a misspelt ruling", `deny contains "x" if data.ringfence.network.rulling.policy == "a"`, "0.rego:2:22: data.ringfence.network.rulling.policy is not for modules: they may read their own rules"},
		{"a misspelt field of the ruling", `deny contains "x" if data.ringfence.network.ruling.polcy == "a"`, "0.rego:2:22: rego_type_error: undefined ref: data.ringfence.network.ruling.polcy"},
		{"a misspelt rule", `deny contains "x" if data.ringfence.custom.helperr`, "0.rego:2:22: data.ringfence.custom.helperr is undefined: no module has such a rule"},
		{"another index", `deny contains "x" if data.ringfence.network.ruling.verdict == "allow" with data.ringfence.index as {}`, "0.rego:2:76: data.ringfence.index is not for modules"},
		{"other data", `deny contains "x" if data.other.x`, "0.rego:2:22: data.other.x is not for modules"},
		{"the policy itself", `deny contains "x" if data.ringfence.index.hosts["a.com"]`, "0.rego:2:22: data.ringfence.index.hosts[\"a.com\"] is not for modules"},
		{"a part of the input by a variable", `deny contains "x" if { some k in ["nothere"]; input[k].host == "a.com" }`, "0.rego:2:"},
		{"a number of any size", `deny contains "x" if bits.lsh(1, 100000000) > 0`, "0.rego:2:22: rego_type_error: undefined function bits.lsh"},

		{"unfinished", "deny contains message if {", "0.rego:2:26: rego_parse_error: unexpected eof token"},

		{"syntax of version 0", `deny[m] { m := "x" }`, "0.rego:2:1: rego_parse_error: `if` keyword is required before rule body"},
		{"no condition word", `deny contains m { m := "x" }`, "0.rego:2:1: rego_parse_error: `if` keyword is required before rule body"},
		{"not text", "deny contains \"\xff\"", "0.rego:2:"},
		{"a tab of commands", "\x00\x1b", "0.rego:2:1: rego_parse_error: "},

		{"unknown function", denyIf("nosuch(1)"), "0.rego:3:13: rego_type_error: undefined function nosuch"},
		{"http.send", denyIf("http.send({})"), "0.rego:3:13: rego_type_error: undefined function http.send"},
		{"time.now_ns", denyIf("time.now_ns()"), "0.rego:3:13: rego_type_error: undefined function time.now_ns"},
		{"rand.intn", denyIf(`rand.intn("a", 2)`), "0.rego:3:13: rego_type_error: undefined function rand.intn"},
		{"opa.runtime", denyIf("opa.runtime()"), "0.rego:3:13: rego_type_error: undefined function opa.runtime"},
		{"net.lookup_ip_addr", denyIf(`net.lookup_ip_addr("a.test")`), "0.rego:3:13: rego_type_error: undefined function net.lookup_ip_addr"},
		{"uuid.rfc4122", denyIf(`uuid.rfc4122("a")`), "0.rego:3:13: rego_type_error: undefined function uuid.rfc4122"},
		{"a token, which has an age", denyIf(`io.jwt.decode_verify("a", {})`), "0.rego:3:13: rego_type_error: undefined function io.jwt.decode_verify"},
		{"a schema, which may be anywhere", denyIf(`json.match_schema({}, {})`), "0.rego:3:13: rego_type_error: undefined function json.match_schema"},
		{"trace", denyIf(`trace("a")`), "0.rego:3:13: rego_type_error: undefined function trace"},
		{"a function by another name", denyIf(`count([]) with count as http.send`), "0.rego:"},

		{"the decision", denyIf("data.ringfence.network.decision"), recursive + "is recursive"},
		{"the decision of requests", denyIf("data.ringfence.request.decision"), recursive + "is recursive"},
		{"all of a package", denyIf("data.ringfence.network"), recursive + "is recursive"},
		{"everything", "deny contains 1 if walk(data, [_, 1])", recursive + "is recursive"},
		{"the objections", denyIf("data.ringfence.network.objections"), recursive + "is recursive"},
		{"the objection", denyIf("data.ringfence.network.objection"), recursive + "is recursive"},
		{"itself", denyIf("data.ringfence.custom.deny"), recursive + "is recursive"},
		{"the decision, by any name", "deny contains x if data.ringfence[x].decision", recursive + "may be recursive"},
		{"the decision, by a computed name", `deny contains 1 if data.ringfence[concat("", ["net", "work"])].decision`, recursive + "may be recursive"},
		{"the decision, without the modules", denyIf("data.ringfence.network.decision with data.ringfence.custom.deny as set()"), recursive + "is recursive"},
		{"another network", denyIf(`data.ringfence.network.ruling with data.ringfence.network as {"ruling": 1}`), recursive + "is recursive"},

		{"unsafe variable in the body", denyIf("x"), "0.rego:3:2: rego_unsafe_var_error: var x is unsafe"},
		{"unsafe variable in the head", "deny contains m if input.x == 1", "0.rego:2:15: rego_unsafe_var_error: var m is unsafe"},
		{"unused variable", "deny contains 1 if { x := 1 }", "0.rego:2:22: rego_compile_error: assigned var x unused"},
		{"unused import", "import data.ringfence.custom.lib\ndeny contains 1", "0.rego:2:1: rego_compile_error: import data.ringfence.custom.lib unused"},
		{"a shadow of the input", "deny contains input if { input := 1 }", "0.rego:2:26: rego_compile_error: variables must not shadow input"},
		{"a rule of two kinds", "x := 1\nx contains 2\ndeny contains 1", "0.rego:2:1: rego_type_error: conflicting rules data.ringfence.custom.x found"},
		{"an argument of another type", `deny contains 1 if count(7) == 1`, "0.rego:2:20: rego_type_error: count: invalid argument(s)"},

		{"empty", "package", "0.rego:"},
		{"too large", "package ringfence.custom\n#" + strings.Repeat("x", MaxFile), "0.rego:1:1: has 262170 bytes, at most 262144 are allowed"},
		{"far too deep", "deny contains " + strings.Repeat("[", 100_000), "0.rego:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := load(t, modulesPolicy).WithModules(regoSources(test.module))
			if p != nil || err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("policy %v\ngot  %v\nwant %s", p != nil, err, test.want)
			}
		})
	}
}

// An empty file is no module: it would do nothing, without a word.
func TestModuleWithoutTextIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"": "empty", "\n": "empty", "# only a comment\n": "empty", "deny contains 1 if true": "package expected",
	} {
		_, err := load(t, modulesPolicy).WithModules([]Source{{"x.rego", []byte(text)}})
		if err == nil || !strings.HasPrefix(err.Error(), "x.rego:1:1: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestModulesAreRefusedTogether(t *testing.T) {
	good := "deny contains 1"
	for _, test := range []struct {
		name    string
		modules []string
		want    []string // each starts a line of the error
	}{
		{"each has its faults", []string{"package main", "deny contains {", good, "package other"},
			[]string{`0.rego:1:1: is package "main"`, "1.rego:2:", `3.rego:1:1: is package "other"`}},
		{"a set here, a value there", []string{good, "deny := 1"}, []string{"1.rego:2:1: deny must be a set"}},
		{"a set here, a part there", []string{good, "deny.hosts contains 1"}, []string{"1.rego:2:1: deny must be a set"}},
		{"a set here, a package there", []string{good, "package ringfence.custom.deny\nhosts contains 1"}, []string{"0.rego:"}},
		{"a set here, a package below it there", []string{good, "package ringfence.custom.deny.hosts\nall contains 1"}, []string{"0.rego:"}},
		{"recursion over modules", []string{"deny contains bad", "bad := data.ringfence.network.decision"}, []string{"1.rego:2:1: rego_recursion_error", "0.rego:2:1: rego_recursion_error"}},
		{"recursion over packages", []string{"deny contains data.ringfence.custom.lib.bad", "package ringfence.custom.lib\nbad := data.ringfence.network.decision"},
			[]string{"0.rego:2:1: rego_recursion_error", "1.rego:2:1: rego_recursion_error"}},
		{"only helpers", []string{"package ringfence.custom.lib\nx := 1", "y := 1"}, []string{"0.rego:1:1: no module defines deny"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := load(t, modulesPolicy).WithModules(regoSources(test.modules...))
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			for _, want := range test.want {
				if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, want) }) {
					t.Errorf("no line starts with %q:\n%v", want, err)
				}
			}
		})
	}
	many := slices.Repeat([]string{good}, MaxModules+1)
	if _, err := load(t, modulesPolicy).WithModules(regoSources(many...)); err == nil || !strings.Contains(err.Error(), "more than 64 modules") {
		t.Errorf("any number of modules is taken: %v", err)
	}
	if _, err := load(t, modulesPolicy).WithModules(regoSources(many[1:]...)); err != nil {
		t.Errorf("the greatest number of modules is not taken: %v", err)
	}
}

// Files of one name in two folders are two modules, and none replaces one of ours.
func TestModulesOfOneName(t *testing.T) {
	text := []byte("package ringfence.custom\ndeny contains 1 if input.network.port == 8443\n")
	sources := []Source{{"network.rego", text}, {"network.rego", text}, {"custom/0/network.rego", text}}
	p, err := load(t, modulesPolicy).WithModules(sources)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEngine(t.Context(), p, Config{})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"open.example.com:443": "allowed", "open.example.com:8443": "custom_rule", "else.example.com:443": "no_endpoint"} {
		if d := e.Decide(program("/usr/bin/curl"), target(t, text)); string(d.Reason) != want {
			t.Errorf("%s: %+v", text, d)
		}
	}
}

// Errors show the operator's text on a terminal: what a terminal would obey is
// quoted, wherever it stood.
func TestErrorsOfModulesAreQuoted(t *testing.T) {
	for _, evil := range []string{"\x1b[2J", "\u009b2J", "\u202e", "\x7f", "\r"} {
		escaped := fmt.Sprintf("%q", evil)
		for _, module := range []string{
			"package ringfence[" + escaped + "]\nx := 1",
			"package " + evil + "\nx := 1",
			"deny contains " + evil,
			"deny contains m if m := input[" + escaped + "]; nosuch[" + escaped + "](1)",
			"deny contains data.ringfence.network[" + escaped + "](1)",
			"deny contains x[" + escaped + "]",
			"deny contains 1 if count(" + escaped + ", 1)",
			"import data[" + escaped + "]\ndeny contains 1",
			"import " + evil + "\ndeny contains 1",
			"deny[" + escaped + "] := 1",
			"x[" + escaped + "] := 1\nx[" + escaped + "] contains 1\ndeny contains 1",
			"x[" + escaped + "] := x\ndeny contains 1",
		} {
			if _, err := load(t, "").WithModules(regoSources(module)); err != nil {
				checkText(t, err.Error())
			}
		}
	}
}

func FuzzModules(f *testing.F) {
	f.Add("package ringfence.custom\ndeny contains input.exec.path if input.network.port == 1\n")
	f.Add("package ringfence.custom\ndeny := data.ringfence.network.decision\n")
	f.Add(policies.Network)
	f.Add(policies.Request)
	p := &Policy{}
	f.Fuzz(func(t *testing.T, text string) {
		narrowed, err := p.WithModules([]Source{{"x.rego", []byte(text)}})
		if (narrowed == nil) == (err == nil) {
			t.Fatalf("policy %v, error %v", narrowed, err)
		}
		if err != nil {
			checkText(t, err.Error())
		}
	})
}
