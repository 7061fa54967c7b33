package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

// explained is a policy in which there is something of everything to be near to.
const explained = `
network_policies:
  code:
    endpoints:
      - {host: github.com, port: 443}
      - {host: "*.github.com", ports: [22, 443]}
      - {host: api.github.com, port: 443, protocol: rest, access: read-only}
    binaries: [{path: /usr/bin/git}, {path: "/opt/**"}, {path: /usr/bin/python3}]
  api:
    name: the-api
    endpoints:
      - host: api.github.com
        port: 443
        protocol: rest
        rules:
          - allow: {method: POST, path: "/repos/**"}
          - allow: {method: GET, path: "/search", query: {q: "a*"}}
        deny_rules: [{method: "*", path: "/repos/secret/**"}, {path: "**", query: {force: "1"}}]
      - {host: api.github.com, port: 443, protocol: rest, access: full, path: "/public/**", allow_encoded_slash: true}
      - {host: audit.github.com, port: 443, protocol: rest, access: read-only, enforcement: audit}
      - {host: ws.github.com, port: 443, protocol: websocket, access: full}
    binaries: [{path: /usr/bin/git}, {path: /usr/bin/gh, sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}]
  venv:
    endpoints: [{host: "**.example.org", port: 443}, {host: github.com, ports: [443, 8443]}]
    binaries: [{path: /venv/bin/python, allow_taints: [writable]}, {path: /venv/bin/strict}, {path: /tmp/tool, allow_taints: [deleted, memfd]}]
  pods:
    endpoints: [{ports: [8080, 6443], allowed_ips: [10.42.0.0/16]}, {host: 10.42.0.1, port: 6443}]
    binaries: [{path: "/**"}]
`

func explainEngine(t *testing.T) *Engine {
	t.Helper()
	e := engine(t, Config{ControlPlane: target(t, "control.test:50051")}, explained)
	links := []Link{
		{Path: "/usr/bin/python3", Target: "/usr/bin/python3.11"},
		{Path: "/venv/bin/python", Target: "/usr/bin/python3.11", Writable: true},
		{Path: "/venv/bin/strict", Target: "/usr/bin/python3.12", Writable: true},
	}
	if err := e.Replace(t.Context(), e.Policy(), links); err != nil {
		t.Fatal(err)
	}
	return e
}

// asker makes questions of which many come near to something.
type asker struct{ *rand.Rand }

func (a asker) pick(words ...string) string { return words[a.IntN(len(words))] }

func (a asker) image() flow.Image {
	image := flow.Image{Path: a.pick("/usr/bin/git", "/usr/bin/git", "/usr/bin/gh", "/usr/bin/gh", "/opt/x/y", "/usr/bin/python3.11", "/usr/bin/python3.12", "/usr/bin/python3",
		"/venv/bin/python", "/tmp/tool", "/bin/sh", "/usr/bin/curl")}
	if a.IntN(4) == 0 {
		image.Taints = 1 << a.IntN(len(flow.TaintNames()))
	}
	if a.IntN(2) == 0 {
		image.SHA256 = strings.Repeat(a.pick("a", "b"), 64)
	}
	return image
}

func (a asker) question(t *testing.T) Question {
	var ancestors []flow.Image
	for range a.IntN(3) {
		ancestors = append(ancestors, a.image())
	}
	q := Question{
		Identity: flow.NewIdentity(a.image(), 1000, 1000, ancestors),
		Target: target(t, a.pick("github.com", "api.github.com", "api.github.com", "www.github.com", "audit.github.com", "ws.github.com", "a.b.example.org",
			"nowhere.test", "10.42.0.1", "10.42.7.7", "10.43.0.1")+":"+a.pick("443", "443", "22", "8080", "6443", "8443")),
	}
	if a.IntN(3) > 0 {
		q.Request = &flow.Request{
			Method: a.pick("GET", "POST", "HEAD", "DELETE", "PATCH"),
			Path:   a.pick("/", "/repos/a", "/repos/secret/x", "/repos/secret/y", "/search", "/public/x", "/public/a%2Fb", "/repos/a%2fb"),
			Query:  map[string][]string{},
		}
		if a.IntN(2) == 0 {
			q.Request.Query[a.pick("q", "force")] = [][]string{{"a"}, {"ab", "x"}, {"1", "2"}, {"1"}, {}}[a.IntN(5)]
		}
	}
	return q
}

// What explain finds by walking the policy is what the engine decides, on 10,000
// questions at random.
func TestExplainAgreesWithTheDecision(t *testing.T) {
	e := explainEngine(t)
	a := asker{rand.New(rand.NewPCG(5, 6))}
	seen := map[flow.Reason]int{}
	for range 10_000 {
		q := a.question(t)
		x := e.Explain(q)
		seen[x.Decision.Reason]++
		if why := disagreementOf(x); why != "" {
			t.Fatalf("%s\nprogram %+v\nancestors %+v\nto %s, request %+v\ndecision %+v\nmatches %+v\nrequests %+v",
				why, q.Identity.Image, q.Identity.Ancestors, q.Target, q.Request, x.Decision, x.Matches, x.Requests)
		}
	}
	for _, reason := range []flow.Reason{
		flow.ReasonAllowed, flow.ReasonNoEndpoint, flow.ReasonWrongPort, flow.ReasonWrongBinary, flow.ReasonTaintedBinary,
		flow.ReasonHashMismatch, flow.ReasonHashUnavailable, flow.ReasonPortRefused, flow.ReasonInspectionUnavailable,
		flow.ReasonNoRule, flow.ReasonDenyRule, flow.ReasonEncodedSlash,
	} {
		if seen[reason] < 20 {
			t.Errorf("%s came up %d times: the test says little of it", reason, seen[reason])
		}
	}
}

// disagreementOf says where an explanation contradicts its decision; "" for
// nowhere.
func disagreementOf(x *Explanation) string {
	d := x.Decision
	switch {
	case len(x.Requests) > 0:
		return requestDisagreement(x)
	case len(x.Matches) == 0:
		if d.Reason != flow.ReasonNoEndpoint {
			return "nothing matches"
		}
	case x.Matches[0].Outcome != d.Reason:
		return fmt.Sprintf("the first match is %s", x.Matches[0].Outcome)
	case x.Matches[0].Policy != d.Policy || x.Matches[0].Place.Field != d.Endpoint:
		return fmt.Sprintf("the first match is %s of %s", x.Matches[0].Place.Field, x.Matches[0].Policy)
	}
	return ""
}

// requestDisagreement puts the endpoints' outcomes together: one that cannot be
// judged, then one that is refused, then one that is allowed.
func requestDisagreement(x *Explanation) string {
	d := x.Decision
	for _, reason := range []flow.Reason{
		flow.ReasonInspectionUnavailable, flow.ReasonEncodedSlash, flow.ReasonDenyRule, flow.ReasonAllowed, flow.ReasonNoRule,
	} {
		audit := true
		for _, m := range x.Requests {
			audit = audit && m.Audit
		}
		for _, m := range x.Requests {
			if m.Outcome != reason {
				continue
			}
			verdict := flow.Deny
			switch {
			case reason == flow.ReasonAllowed:
				verdict = flow.Allow
			case audit && (reason == flow.ReasonDenyRule || reason == flow.ReasonNoRule):
				verdict = flow.Audit
			}
			if d.Reason != reason || d.Policy != m.Policy || d.Endpoint != m.Place.Field || d.Rule != m.Rule || d.Verdict != verdict {
				return fmt.Sprintf("the endpoints say %s %s by %q of %s", verdict, reason, m.Rule, m.Place.Field)
			}
			return ""
		}
	}
	return "no endpoint says anything"
}

// What explain suggests is what was missing: with it, the answer is yes.
func TestSuggestionsWork(t *testing.T) {
	e := explainEngine(t)
	a := asker{rand.New(rand.NewPCG(7, 8))}
	tried := map[flow.Reason]int{}
	for range 3000 {
		q := a.question(t)
		q.Request = nil
		x := e.Explain(q)
		reason := x.Decision.Reason
		if x.Suggestion == "" || tried[reason] > 20 || reason == flow.ReasonTaintedBinary {
			continue // a taint's binary stands in the policy already
		}
		tried[reason]++
		// As a file of its own under another key, with the program or the endpoint that
		// the policy has already.
		text := strings.Replace(x.Suggestion, "  "+keyOf(x.Suggestion)+":", "  suggested:", 1)
		if !strings.Contains(text, "binaries:") {
			text += fmt.Sprintf("    binaries: [{path: %q}]\n", q.Identity.Path)
		}
		if !strings.Contains(text, "endpoints:") {
			text += fmt.Sprintf("    endpoints: [{host: %q, port: %d}]\n", q.Target.Host, q.Target.Port)
		}
		p, _, err := Load(Source{"suggested.yaml", []byte("version: 1\n" + text)})
		if err != nil {
			t.Fatalf("%s: %v\n%s", reason, err, text)
		}
		with, err := NewEngine(t.Context(), p, Config{})
		if err != nil {
			t.Fatal(err)
		}
		id := flow.NewIdentity(flow.Image{Path: q.Identity.Path}, 1000, 1000, nil)
		if d := with.Decide(id, q.Target); d.Verdict != flow.Allow && d.Reason != flow.ReasonInspectionUnavailable {
			t.Errorf("%s: with\n%s%s to %s is %s", reason, text, q.Identity.Path, q.Target, d.Reason)
		}
	}
	for _, reason := range []flow.Reason{flow.ReasonNoEndpoint, flow.ReasonWrongPort, flow.ReasonWrongBinary, flow.ReasonPortRefused} {
		if tried[reason] == 0 {
			t.Errorf("no suggestion for %s was tried", reason)
		}
	}
}

func keyOf(suggestion string) string {
	_, rest, _ := strings.Cut(suggestion, "network_policies:\n  ")
	key, _, _ := strings.Cut(rest, ":")
	return key
}

func TestExplainExamples(t *testing.T) {
	e := explainEngine(t)
	for _, test := range []struct {
		name, program, target string
		request               *flow.Request
		want                  []string // parts of the suggestion
	}{
		{"new policy", "/usr/bin/curl", "nowhere.test:443", nil, []string{"  curl:", "host: nowhere.test, port: 443", "- path: /usr/bin/curl"}},
		{"new policy, though others have the program", "/usr/bin/git", "nowhere.test:443", nil, []string{"  git:", "host: nowhere.test"}},
		{"program", "/usr/bin/curl", "github.com:443", nil, []string{"  code:", "- path: /usr/bin/curl"}},
		{"port", "/usr/bin/git", "github.com:22", nil, []string{"in place of network_policies.code.endpoints[0]", "- host: github.com\n        ports: [443, 22]"}},
		{"port of an endpoint with rules", "/usr/bin/git", "ws.github.com:8443", nil, []string{"ports: [443, 8443]", "protocol: websocket", "access: full"}},
		{"port and program", "/usr/bin/curl", "github.com:2222", nil, []string{"  curl:", "host: github.com, port: 2222"}},
		{"private address", "/usr/bin/git", "10.9.9.9:443", nil, []string{`allowed_ips: ["10.9.9.9"]`}},
		{"a name that is a pattern", "/tmp/**", "nowhere.test:443", nil, nil},
		{"metadata", "/usr/bin/git", "169.254.169.254:80", nil, nil},
		{"preset", "/usr/bin/git", "audit.github.com:443", &flow.Request{Method: "DELETE", Path: "/"}, []string{"access: full"}},
		{"allowed", "/usr/bin/git", "github.com:443", nil, nil},
		{"awkward path", "/tmp/a b\x1b", "github.com:443", nil, []string{`- path: "/tmp/a b\x1b"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := e.Explain(Question{Identity: program(test.program), Target: target(t, test.target), Request: test.request})
			if (x.Suggestion == "") != (test.want == nil) {
				t.Errorf("%s: suggests %q", x.Decision.Reason, x.Suggestion)
			}
			for _, want := range test.want {
				if !strings.Contains(x.Suggestion, want) {
					t.Errorf("%s: %q is not in\n%s", x.Decision.Reason, want, x.Suggestion)
				}
			}
		})
	}
}
