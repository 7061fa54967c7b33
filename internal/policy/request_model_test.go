package policy

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

type (
	modelAllow struct {
		Allow modelRule `yaml:"allow"`
	}
	modelRule struct {
		Method string                 `yaml:"method,omitempty"`
		Path   string                 `yaml:"path,omitempty"`
		Query  map[string]modelValues `yaml:"query,omitempty"`
	}
	modelValues []string
)

// MarshalYAML writes one glob as it is, several under any.
func (v modelValues) MarshalYAML() (any, error) {
	if len(v) == 1 {
		return v[0], nil
	}
	return map[string][]string{"any": v}, nil
}

func (v modelValues) match(value string) bool {
	return slices.ContainsFunc(v, func(glob string) bool { return textMatches(glob, value) })
}

// covers reports whether a rule is for the method and the path of a request.
func (r modelRule) covers(request flow.Request) bool {
	method := r.Method == "" || r.Method == "*" || r.Method == request.Method || r.Method == http.MethodGet && request.Method == http.MethodHead
	return method && (r.Path == "" || pathMatches(r.Path, request.Path))
}

// allows wants every value of each key to match, and one to be there.
func (r modelRule) allows(request flow.Request) bool {
	for key, globs := range r.Query {
		for _, value := range request.Query[key] {
			if !globs.match(value) {
				return false
			}
		}
		if len(request.Query[key]) == 0 {
			return false
		}
	}
	return r.covers(request)
}

// denies is content with one value of each key.
func (r modelRule) denies(request flow.Request) bool {
	for key, globs := range r.Query {
		if !slices.ContainsFunc(request.Query[key], globs.match) {
			return false
		}
	}
	return r.covers(request)
}

// rule returns what in an endpoint allows a request; "" for nothing.
func (p place) rule(request flow.Request) string {
	reads := []string{"GET", "HEAD", "OPTIONS"}
	writes := append(slices.Clone(reads), "POST", "PUT", "PATCH")
	switch {
	case p.Access == "full",
		p.Access == "read-only" && slices.Contains(reads, request.Method),
		p.Access == "read-write" && slices.Contains(writes, request.Method):
		return "access"
	}
	for i, rule := range p.Rules {
		if rule.Allow.allows(request) {
			return fmt.Sprintf("rules[%d]", i)
		}
	}
	return ""
}

// judges returns the endpoints that have a say in a request: of those that grant
// the connection, the inspected ones that are as specific as the first. Those for
// paths judge theirs, the one that writes out most; the others judge the rest. If
// there is nobody, all of them refuse.
func (f *modelFile) judges(granted place, id *flow.Identity, to flow.Target, request flow.Request) (judges []place, any bool) {
	var all, scoped, rest []place
	letters := func(p place) int { return len(strings.ReplaceAll(p.Path, "*", "")) }
	for _, p := range f.places() {
		switch {
		case !p.inspected() || p.unspecific(granted) != 0 || f.outcome(p, id, to) != flow.ReasonAllowed:
			continue
		case p.Path == "":
			rest = append(rest, p)
		case pathMatches(p.Path, request.Path):
			scoped = append(scoped, p)
		}
		all = append(all, p)
	}
	if len(scoped) == 0 && len(rest) == 0 {
		return all, false
	}
	if len(scoped) == 0 {
		return rest, true
	}
	most := 0
	for _, p := range scoped {
		most = max(most, letters(p))
	}
	return slices.DeleteFunc(scoped, func(p place) bool { return letters(p) < most }), true
}

// request is the decision on a request.
func (f *modelFile) request(id *flow.Identity, to flow.Target, request flow.Request) answer {
	connection, granted := f.decide(id, to)
	if granted == nil || !granted.inspected() {
		return connection
	}
	judges, any := f.judges(*granted, id, to, request)
	refusal := flow.Audit
	for _, p := range judges {
		if p.Enforcement != "audit" {
			refusal = flow.Deny
		}
	}
	if !any {
		return judges[0].answer(refusal, flow.ReasonNoRule, "")
	}
	for _, p := range judges {
		if p.Protocol != "rest" {
			return p.answer(flow.Deny, flow.ReasonInspectionUnavailable, "")
		}
	}
	for _, p := range judges {
		if strings.Contains(strings.ToLower(request.Path), "%2f") && !p.EncodedSlash {
			return p.answer(flow.Deny, flow.ReasonEncodedSlash, "")
		}
	}
	for _, p := range judges {
		for i, rule := range p.DenyRules {
			if rule.denies(request) {
				return p.answer(refusal, flow.ReasonDenyRule, fmt.Sprintf("deny_rules[%d]", i))
			}
		}
	}
	for _, p := range judges {
		if rule := p.rule(request); rule != "" {
			return p.answer(flow.Allow, flow.ReasonAllowed, rule)
		}
	}
	return judges[0].answer(refusal, flow.ReasonNoRule, "")
}

func (d dice) rule() modelRule {
	r := modelRule{
		Method: one(d, "", "*", "GET", "GET", "POST", "HEAD", "DELETE"),
		Path:   one(d, "", "**", "/**", "/a", "/a/*", "/a/**", "/**/info/refs*", "/**/b"),
	}
	if d.oneIn(3) {
		r.Query = map[string]modelValues{one(d, "q", "r"): some(d, 1, 2, "a*", "b", "*", "")}
	}
	if r.Method+r.Path == "" && r.Query == nil {
		r.Method = "*" // the empty rule is refused
	}
	return r
}

func (d dice) inspectedEndpoint() modelEndpoint {
	e := modelEndpoint{
		Host:         one(d, "a.example.com", "a.example.com", "a.example.com", "*.example.com", ""),
		Ports:        []uint16{443},
		Protocol:     one(d, "rest", "rest", "rest", "rest", "rest", "rest", "rest", "websocket", ""),
		Path:         one(d, "", "", "", "/a/**", "/a/*", "/b/**", "/**"),
		EncodedSlash: d.oneIn(3),
	}
	if e.Host == "" {
		e.AllowedIPs = []string{"10.1.0.0/16"}
	}
	if e.Protocol == "" {
		return modelEndpoint{Host: e.Host, Ports: e.Ports, AllowedIPs: e.AllowedIPs}
	}
	if d.oneIn(3) {
		e.Enforcement = "audit"
	}
	if d.oneIn(2) {
		e.Access = one(d, "read-only", "read-write", "full")
	}
	for i := 0; i < 1+d.IntN(3) && e.Access == ""; i++ {
		e.Rules = append(e.Rules, modelAllow{d.rule()})
	}
	for range d.IntN(3) {
		e.DenyRules = append(e.DenyRules, d.rule())
	}
	return e
}

func (d dice) request() flow.Request {
	r := flow.Request{
		Method: one(d, "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"),
		Path:   one(d, "/", "/a", "/a/b", "/a/b/c", "/b/x", "/b", "/o/info/refs", "/a%2Fb", "/a/%2f", "/a\n", "/a/\xff", ""),
	}
	if d.oneIn(2) {
		r.Query = map[string][]string{}
		for _, key := range some(d, 0, 2, "q", "r") {
			r.Query[key] = some(d, 0, 2, "a", "ab", "b", "", "\n", "\xff")
		}
	}
	return r
}

// Random policies of inspected endpoints, and what they say to random requests.
func TestRequestsAgainstModel(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(9, 10))}
	e := engine(t, Config{}, "")
	reasons, audited, refused := map[flow.Reason]int{}, map[flow.Reason]int{}, 0
	for asked := 0; asked < 5000; {
		f := d.policy(d.inspectedEndpoint)
		if !f.engineOf(t, e) {
			refused++
			continue
		}
		for range 50 {
			asked++
			id, to, request := d.identity(), target(t, one(d, "a.example.com:443", "a.example.com:443", "b.example.com:443", "10.1.2.3:443")), d.request()
			want := f.request(id, to, request)
			reasons[want.Reason]++
			if want.Verdict == flow.Audit {
				audited[want.Reason]++
			}
			if diff := gocmp.Diff(want, answerOf(e.DecideRequest(id, to, request))); diff != "" {
				t.Fatalf("%q to %s by %+v, ancestors %+v (-model +engine)\n%s\n%s", request, to, id.Image, id.Ancestors, diff, f)
			}
		}
	}
	cameUp(t, reasons, 50, flow.ReasonAllowed, flow.ReasonNoRule, flow.ReasonDenyRule, flow.ReasonEncodedSlash, flow.ReasonInspectionUnavailable,
		flow.ReasonWrongBinary, flow.ReasonNoEndpoint, flow.ReasonTaintedBinary)
	cameUp(t, audited, 20, flow.ReasonNoRule, flow.ReasonDenyRule)
	if refused > 1000 {
		t.Errorf("the loader refuses %d policies: the test says little of the rest", refused)
	}
}
