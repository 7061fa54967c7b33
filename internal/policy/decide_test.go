package policy

import (
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/ringfence/ringfence/internal/flow"
)

const decidePolicy = `
network_policies:
  alpha:
    binaries: [{path: /usr/bin/curl}, {path: "/opt/*/bin/tool"}, {path: "/srv/**"}]
    endpoints:
      - {host: Example.COM, port: 443}
      - {host: "*.example.com", ports: [443, 8443], allowed_ips: [10.0.0.0/16, 192.0.2.7]}
      - {host: 192.0.2.1, port: 5432}
      - {host: "2001:DB8::1", port: 5432}
  beta:
    binaries: [{path: /usr/bin/curl}, {path: /usr/bin/git}]
    endpoints:
      - {host: example.com, port: 443}
      - {host: "**.example.org", port: 443}
      - {host: "*.deep.example.org", port: 443, allowed_ips: [10.9.0.0/16]}
      - {host: "us-*.example.net", port: 443}
      - {host: "a.*.example.net", port: 443}
      - {host: api.example.net, port: 443, protocol: rest, access: full}
  cluster_pods:
    binaries: [{path: "/**"}]
    endpoints:
      - {ports: [8080, 6443], allowed_ips: [10.42.0.0/16, 10.0.0.0/8, "fd00:1::/64", "fc00::/7"]}
  mixed_a:
    binaries: [{path: /usr/bin/pip}]
    endpoints: [{host: mixed.example.test, port: 443}]
  mixed_b:
    binaries: [{path: /usr/bin/git}]
    endpoints: [{host: mixed.example.test, port: 443, protocol: rest, access: read-only}]
`

func TestDecide(t *testing.T) {
	e := engine(t, Config{ControlPlane: target(t, "control.example.com:50051")}, decidePolicy)
	curl, git := program("/usr/bin/curl"), program("/usr/bin/git")
	tainted := func(id *flow.Identity, taint flow.Taint) *flow.Identity {
		image := id.Image
		image.Taints = taint
		return flow.NewIdentity(image, id.UID, id.GID, id.Ancestors)
	}
	tests := []struct {
		name    string
		id      *flow.Identity
		target  string
		verdict flow.Verdict
		reason  flow.Reason
		policy  string
	}{
		{"exact host, smallest policy", curl, "example.com:443", flow.Allow, flow.ReasonAllowed, "alpha"},
		{"exact host, only one policy has the program", git, "example.com:443", flow.Allow, flow.ReasonAllowed, "beta"},
		{"wrong port", curl, "example.com:80", flow.Deny, flow.ReasonWrongPort, "alpha"},
		{"wrong host", curl, "example.com.test:443", flow.Deny, flow.ReasonNoEndpoint, ""},
		{"wrong program", program("/usr/bin/wget"), "example.com:443", flow.Deny, flow.ReasonWrongBinary, "alpha"},
		{"path is no prefix", program("/usr/bin/curl2"), "example.com:443", flow.Deny, flow.ReasonWrongBinary, "alpha"},
		{"path with a newline", program("/usr/bin/curl\n"), "example.com:443", flow.Deny, flow.ReasonWrongBinary, "alpha"},
		{"empty path", program(""), "example.com:443", flow.Deny, flow.ReasonWrongBinary, "alpha"},
		{"star within a segment", program("/opt/x/bin/tool"), "example.com:443", flow.Allow, flow.ReasonAllowed, "alpha"},
		{"star not across", program("/opt/x/y/bin/tool"), "example.com:443", flow.Deny, flow.ReasonWrongBinary, "alpha"},
		{"two stars across", program("/srv/a/b/c"), "example.com:443", flow.Allow, flow.ReasonAllowed, "alpha"},
		{"two stars, newline and no UTF-8", program("/srv/a\n\xff"), "example.com:443", flow.Allow, flow.ReasonAllowed, "alpha"},
		{"glob is anchored", program("/tmp/srv/a"), "example.com:443", flow.Deny, flow.ReasonWrongBinary, "alpha"},
		{"parent", program("/bin/sh", "/usr/bin/curl"), "example.com:443", flow.Allow, flow.ReasonAllowed, "alpha"},
		{"far ancestor by glob", program("/bin/sh", "/bin/sh", "/opt/x/bin/tool"), "example.com:443", flow.Allow, flow.ReasonAllowed, "alpha"},

		{"foreign root", tainted(curl, flow.TaintForeignRoot), "example.com:443", flow.Deny, flow.ReasonTaintedBinary, "alpha"},
		{"unknown taint", tainted(curl, 1<<30), "example.com:443", flow.Deny, flow.ReasonTaintedBinary, "alpha"},
		{"tainted, clean ancestor", tainted(program("/x", "/usr/bin/curl"), flow.TaintMemfd), "example.com:443", flow.Deny, flow.ReasonTaintedBinary, "alpha"},
		{"tainted, no match anyway", tainted(program("/x"), flow.TaintMemfd), "example.com:443", flow.Deny, flow.ReasonWrongBinary, "alpha"},
		{"clean, tainted ancestor", flow.NewIdentity(flow.Image{Path: "/x"}, 1, 1, []flow.Image{{Path: "/usr/bin/curl", Taints: flow.TaintDeleted}}),
			"example.com:443", flow.Deny, flow.ReasonTaintedBinary, "alpha"},

		{"wildcard", curl, "www.example.com:8443", flow.Allow, flow.ReasonAllowed, "alpha"},
		{"wildcard, two labels", curl, "a.www.example.com:443", flow.Deny, flow.ReasonNoEndpoint, ""},
		{"wildcard of any depth", git, "a.b.c.example.org:443", flow.Allow, flow.ReasonAllowed, "beta"},
		{"wildcard of any depth needs a label", git, "example.org:443", flow.Deny, flow.ReasonNoEndpoint, ""},
		{"partial label", git, "us-east.example.net:443", flow.Allow, flow.ReasonAllowed, "beta"},
		{"partial label, other start", git, "eu-us-1.example.net:443", flow.Deny, flow.ReasonNoEndpoint, ""},
		{"middle label", git, "a.b.example.net:443", flow.Allow, flow.ReasonAllowed, "beta"},
		{"inspection", git, "api.example.net:443", flow.Deny, flow.ReasonInspectionUnavailable, "beta"},
		{"long name", git, strings.Repeat("a.", 120) + "example.org:443", flow.Allow, flow.ReasonAllowed, "beta"},

		{"IPv4 literal", curl, "192.0.2.1:5432", flow.Allow, flow.ReasonAllowed, "alpha"},
		{"IPv6 literal", curl, "[2001:db8::1]:5432", flow.Allow, flow.ReasonAllowed, "alpha"},
		{"mapped literal", curl, "[::ffff:192.0.2.1]:5432", flow.Allow, flow.ReasonAllowed, "alpha"},
		{"other literal", curl, "192.0.2.2:5432", flow.Deny, flow.ReasonNoEndpoint, ""},
		{"allowed_ips of a name are no endpoint", curl, "192.0.2.7:443", flow.Deny, flow.ReasonNoEndpoint, ""},
		{"network", git, "10.42.1.1:8080", flow.Allow, flow.ReasonAllowed, "cluster_pods"},
		{"wide network", git, "10.250.1.1:8080", flow.Allow, flow.ReasonAllowed, "cluster_pods"},
		{"outside of networks", git, "11.42.1.1:8080", flow.Deny, flow.ReasonNoEndpoint, ""},
		{"IPv6 network", git, "[fd00:1::9]:8080", flow.Allow, flow.ReasonAllowed, "cluster_pods"},
		{"wide IPv6 network", git, "[fdff::9]:8080", flow.Allow, flow.ReasonAllowed, "cluster_pods"},
		{"outside of IPv6 networks", git, "[2001:db8::9]:8080", flow.Deny, flow.ReasonNoEndpoint, ""},
		{"cluster port", git, "10.42.1.1:6443", flow.Deny, flow.ReasonPortRefused, "cluster_pods"},
		{"network, wrong port", git, "10.42.1.1:80", flow.Deny, flow.ReasonWrongPort, "cluster_pods"},
		{"network, not a name", git, "pod.example.test:8080", flow.Deny, flow.ReasonNoEndpoint, ""},

		{"programs tell inspection apart: without", program("/usr/bin/pip"), "mixed.example.test:443", flow.Allow, flow.ReasonAllowed, "mixed_a"},
		{"programs tell inspection apart: with", git, "mixed.example.test:443", flow.Deny, flow.ReasonInspectionUnavailable, "mixed_b"},
		{"both match: inspection stays", program("/usr/bin/git", "/usr/bin/pip"), "mixed.example.test:443", flow.Deny, flow.ReasonInspectionUnavailable, "mixed_b"},

		{"control plane", program("/any"), "control.example.com:50051", flow.Allow, flow.ReasonControlPlane, ""},
		{"control plane, tainted", tainted(program("/any"), flow.TaintMemfd), "control.example.com:50051", flow.Allow, flow.ReasonControlPlane, ""},
		{"control plane, other port", program("/any"), "control.example.com:443", flow.Deny, flow.ReasonWrongBinary, "alpha"},
		{"control plane, no identity", nil, "control.example.com:50051", flow.Deny, flow.ReasonNoIdentity, ""},
		{"no identity", nil, "example.com:443", flow.Deny, flow.ReasonNoIdentity, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			to := target(t, test.target)
			d := e.Decide(test.id, to)
			if d.Verdict != test.verdict || d.Reason != test.reason || d.Policy != test.policy {
				t.Errorf("got %s %s %q, want %s %s %q", d.Verdict, d.Reason, d.Policy, test.verdict, test.reason, test.policy)
			}
			if again := e.Decide(test.id, to); again != d {
				t.Error("the second decision is another one")
			}
			if d.Generation != 1 {
				t.Errorf("generation %d", d.Generation)
			}
			if denied := d.Verdict == flow.Deny; denied != (d.Hint != "") {
				t.Errorf("hint %q", d.Hint)
			}
			if inspect := d.Reason == flow.ReasonInspectionUnavailable; d.Inspect != inspect {
				t.Errorf("inspect %v", d.Inspect)
			}
			wantEngine := flow.EngineOPA
			switch d.Reason {
			case flow.ReasonNoIdentity:
				wantEngine = flow.EngineIdentity
			case flow.ReasonControlPlane:
				wantEngine = flow.EngineControlPlane
			}
			if d.Engine != wantEngine {
				t.Errorf("engine %s, want %s", d.Engine, wantEngine)
			}
		})
	}
}

func TestAllowedIPsAreThoseOfTheMostSpecificEndpoint(t *testing.T) {
	e := engine(t, Config{}, decidePolicy)
	prefixes := func(texts ...string) (ps []netip.Prefix) {
		for _, text := range texts {
			ps = append(ps, netip.MustParsePrefix(text))
		}
		return ps
	}
	for _, test := range []struct {
		path, target string
		want         []netip.Prefix
	}{
		{"/usr/bin/curl", "example.com:443", nil},
		{"/usr/bin/curl", "www.example.com:443", prefixes("10.0.0.0/16", "192.0.2.7/32")},
		{"/usr/bin/git", "x.deep.example.org:443", prefixes("10.9.0.0/16")},
		{"/usr/bin/git", "x.y.deep.example.org:443", nil},
	} {
		d := e.Decide(program(test.path), target(t, test.target))
		if diff := cmp.Diff(test.want, d.AllowedIPs, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || d.Verdict != flow.Allow {
			t.Errorf("%s: %s (-want +got)\n%s", test.target, d.Reason, diff)
		}
	}
}

// The zero Target must not be the control plane of an engine without one.
func TestZeroTargetIsNoControlPlane(t *testing.T) {
	e := engine(t, Config{}, decidePolicy)
	if d := e.Decide(program("/usr/bin/curl"), flow.Target{}); d.Verdict != flow.Deny {
		t.Errorf("%+v", d)
	}
	if e.Declares("") {
		t.Error("the empty name is declared")
	}
}

// Identities that were made without a key must not share what was decided.
func TestIdentityWithoutKeyIsNotCached(t *testing.T) {
	e := engine(t, Config{}, decidePolicy)
	to := target(t, "example.com:443")
	if d := e.Decide(&flow.Identity{Image: flow.Image{Path: "/usr/bin/curl"}}, to); d.Verdict != flow.Allow {
		t.Errorf("curl: %+v", d)
	}
	if d := e.Decide(&flow.Identity{Image: flow.Image{Path: "/usr/bin/wget"}}, to); d.Verdict != flow.Deny {
		t.Errorf("wget: %+v", d)
	}
}

func TestDeclares(t *testing.T) {
	e := engine(t, Config{ControlPlane: target(t, "control.example.test:50051")}, decidePolicy)
	for name, want := range map[string]bool{
		"example.com": true, "EXAMPLE.com": true, "www.example.com": true, "a.www.example.com": false,
		"a.b.example.org": true, "example.org": false, "us-1.example.net": true, "control.example.test": true,
		"api.example.net": true, "example.net": false, "com": false, "": false,
		"192.0.2.1": false, "2001:db8::1": false, "a b.example.com": false, "x..example.com": false,
	} {
		for range 2 { // the second answer is the cached one
			if got := e.Declares(name); got != want {
				t.Errorf("%q: %v", name, got)
			}
		}
	}
}

func TestReplace(t *testing.T) {
	e := engine(t, Config{}, decidePolicy)
	id, to := program("/usr/bin/curl"), target(t, "example.com:443")
	before := e.Decide(id, to)
	if err := e.Replace(t.Context(), load(t, "network_policies: {}"), nil); err != nil {
		t.Fatal(err)
	}
	after := e.Decide(id, to)
	if before.Verdict != flow.Allow || before.Generation != 1 {
		t.Errorf("before: %+v", before)
	}
	if after.Verdict != flow.Deny || after.Generation != 2 || e.Generation() != 2 {
		t.Errorf("after: %+v", after)
	}
	if e.Declares("example.com") {
		t.Error("the old generation's name is still declared")
	}
}

func TestReplaceKeepsTheOldGenerationOnError(t *testing.T) {
	e := engine(t, Config{}, decidePolicy)
	if err := e.Replace(t.Context(), nil, nil); err == nil {
		t.Fatal("no error")
	}
	if d := e.Decide(program("/usr/bin/curl"), target(t, "example.com:443")); d.Verdict != flow.Allow || d.Generation != 1 {
		t.Errorf("%+v", d)
	}
}

// noPatience makes every evaluation fail.
func noPatience() (topdown.Cancel, func() bool) {
	cancel := topdown.NewCancel()
	cancel.Cancel()
	return cancel, func() bool { return true }
}

// forgetFailures does what time does.
func forgetFailures(e *Engine) {
	g := e.current.Load()
	for i := range g.decisions.parts {
		g.decisions.parts[i].failure = failure{}
	}
}

// An engine that fails denies, and does not remember it for long.
func TestPolicyError(t *testing.T) {
	p := load(t, decidePolicy)
	e, err := NewEngine(t.Context(), p, Config{})
	if err != nil {
		t.Fatal(err)
	}
	g := e.current.Load()
	g.patience = noPatience
	id, to := program("/usr/bin/curl"), target(t, "example.com:443")
	d := e.Decide(id, to)
	if d.Verdict != flow.Deny || d.Reason != flow.ReasonPolicyError || d.Hint == "" || d.Generation != 1 {
		t.Errorf("%+v", d)
	}
	if e.Decide(id, to) != d {
		t.Error("who comes at the same time fails anew")
	}
	forgetFailures(e)
	if e.Decide(id, to) == d {
		t.Error("the failure was cached")
	}
	if e.Declares("example.com") {
		t.Error("a name is declared though the engine fails")
	}
}

func TestCacheIsBounded(t *testing.T) {
	e := engine(t, Config{CacheSize: 64}, decidePolicy)
	id := program("/usr/bin/curl")
	for port := range uint16(500) {
		e.Decide(id, flow.Target{Host: "example.com", Port: port + 1})
	}
	g, total := e.current.Load(), 0
	for i := range g.decisions.parts {
		total += g.decisions.parts[i].decisions.Len()
	}
	if total > 64 {
		t.Errorf("%d decisions are kept", total)
	}
}

func TestCachedDecisionDoesNotAllocate(t *testing.T) {
	e := engine(t, Config{}, decidePolicy)
	id, name, literal := program("/usr/bin/curl", "/bin/sh"), target(t, "example.com:443"), target(t, "192.0.2.1:5432")
	e.Decide(id, name)
	e.Decide(id, literal)
	if n := testing.AllocsPerRun(100, func() { e.Decide(id, name); e.Decide(id, literal); e.Decide(nil, name) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestLinks(t *testing.T) {
	const text = `
network_policies:
  p:
    endpoints: [{host: example.com, port: 443}]
    binaries: [{path: /usr/bin/python3}, {path: /venv/bin/python}, {path: "/opt/*"}]
  tolerant:
    endpoints: [{host: tolerant.example.com, port: 443}]
    binaries: [{path: /venv/bin/python, allow_taints: [writable]}]
`
	e := engine(t, Config{}, text)
	links := []Link{
		{Path: "/usr/bin/python3", Target: "/usr/bin/python3.11"},
		{Path: "/venv/bin/python", Target: "/usr/bin/python3.12", Writable: true},
	}
	if err := e.Replace(t.Context(), e.Policy(), links); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		id   *flow.Identity
		host string
		want flow.Reason
	}{
		{program("/usr/bin/python3"), "example.com", flow.ReasonAllowed},
		{program("/usr/bin/python3.11"), "example.com", flow.ReasonAllowed},
		{program("/bin/sh", "/usr/bin/python3.11"), "example.com", flow.ReasonAllowed},
		{program("/usr/bin/python3.12"), "example.com", flow.ReasonTaintedBinary},
		{program("/usr/bin/python3.12"), "tolerant.example.com", flow.ReasonAllowed},
		{program("/usr/bin/python3.11"), "tolerant.example.com", flow.ReasonWrongBinary},
		{program("/usr/bin/python3.13"), "example.com", flow.ReasonWrongBinary},
		{program("/opt/tool"), "example.com", flow.ReasonAllowed},
	} {
		d := e.Decide(test.id, flow.Target{Host: test.host, Port: 443})
		if d.Reason != test.want || d.Generation != 2 {
			t.Errorf("%s to %s: %s, generation %d", test.id.Path, test.host, d.Reason, d.Generation)
		}
	}
}

// Taints are put up with by the binary that names the image; foreign_root never.
func TestAllowTaints(t *testing.T) {
	e := engine(t, Config{}, `
network_policies:
  p:
    endpoints: [{host: example.com, port: 443}]
    binaries:
      - {path: /usr/bin/tool, allow_taints: [deleted, writable]}
      - {path: /usr/bin/agent, allow_taints: [memfd]}
      - {path: /usr/bin/plain}
`)
	image := func(path string, taints flow.Taint) flow.Image { return flow.Image{Path: path, Taints: taints} }
	id := func(images ...flow.Image) *flow.Identity { return flow.NewIdentity(images[0], 1000, 1000, images[1:]) }
	for name, test := range map[string]struct {
		id   *flow.Identity
		want flow.Reason
	}{
		"put up with":                   {id(image("/usr/bin/tool", flow.TaintDeleted)), flow.ReasonAllowed},
		"two put up with":               {id(image("/usr/bin/tool", flow.TaintDeleted|flow.TaintWritable)), flow.ReasonAllowed},
		"one of two":                    {id(image("/usr/bin/tool", flow.TaintDeleted|flow.TaintMemfd)), flow.ReasonTaintedBinary},
		"foreign root":                  {id(image("/usr/bin/tool", flow.TaintForeignRoot)), flow.ReasonTaintedBinary},
		"another binary's":              {id(image("/usr/bin/plain", flow.TaintDeleted)), flow.ReasonTaintedBinary},
		"of a child":                    {id(image("/memfd", flow.TaintMemfd), image("/usr/bin/agent", 0)), flow.ReasonAllowed},
		"of a child, not put up with":   {id(image("/x", flow.TaintDeleted), image("/usr/bin/agent", 0)), flow.ReasonTaintedBinary},
		"of the ancestor":               {id(image("/x", 0), image("/usr/bin/agent", flow.TaintMemfd)), flow.ReasonAllowed},
		"of the ancestor, another":      {id(image("/x", 0), image("/usr/bin/agent", flow.TaintDeleted)), flow.ReasonTaintedBinary},
		"of an ancestor that lends not": {id(image("/usr/bin/plain", 0), image("/y", flow.TaintDeleted)), flow.ReasonAllowed},
	} {
		if d := e.Decide(test.id, target(t, "example.com:443")); d.Reason != test.want {
			t.Errorf("%s: %s", name, d.Reason)
		}
	}
}

func TestSHA256(t *testing.T) {
	hash, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	e := engine(t, Config{}, `
network_policies:
  p:
    endpoints: [{host: example.com, port: 443}]
    binaries: [{path: /usr/bin/tool, sha256: `+strings.ToUpper(hash)+`}]
`)
	for _, test := range []struct {
		image flow.Image
		want  flow.Reason
	}{
		{flow.Image{Path: "/usr/bin/tool", SHA256: hash}, flow.ReasonAllowed},
		{flow.Image{Path: "/usr/bin/tool", SHA256: other}, flow.ReasonHashMismatch},
		{flow.Image{Path: "/usr/bin/tool"}, flow.ReasonHashUnavailable},
		{flow.Image{Path: "/usr/bin/tool", SHA256: hash, Taints: flow.TaintMemfd}, flow.ReasonTaintedBinary},
		{flow.Image{Path: "/usr/bin/tool", SHA256: hash, Taints: flow.TaintChanged}, flow.ReasonAllowed},
		{flow.Image{Path: "/usr/bin/tool", SHA256: other, Taints: flow.TaintChanged}, flow.ReasonHashMismatch},
		{flow.Image{Path: "/usr/bin/tool", Taints: flow.TaintChanged}, flow.ReasonHashUnavailable},
		{flow.Image{Path: "/usr/bin/tool", SHA256: hash, Taints: flow.TaintSetuid | flow.TaintScript}, flow.ReasonAllowed},
		{flow.Image{Path: "/usr/bin/other", SHA256: hash}, flow.ReasonWrongBinary},
	} {
		d := e.Decide(flow.NewIdentity(test.image, 1000, 1000, nil), target(t, "example.com:443"))
		if d.Reason != test.want || (d.Verdict == flow.Allow) != (d.Hint == "") {
			t.Errorf("%+v: %s, hint %q", test.image, d.Reason, d.Hint)
		}
	}
}

// Decisions, reloads and questions of the DNS at once; each decision is that of
// the generation it names.
func TestConcurrentReplace(t *testing.T) {
	e := engine(t, Config{CacheSize: 32}, decidePolicy)
	open, shut := load(t, decidePolicy), load(t, "network_policies: {}")
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			id := program("/usr/bin/curl")
			for i := range 100 {
				d := e.Decide(id, flow.Target{Host: "www.example.com", Port: []uint16{443, 8443}[(i+w)%2]})
				if odd := d.Generation%2 == 1; odd != (d.Verdict == flow.Allow) {
					t.Errorf("generation %d: %s", d.Generation, d.Verdict)
				}
				e.Declares("www.example.com")
			}
		})
	}
	for range 5 {
		for _, p := range []*Policy{shut, open} {
			if err := e.Replace(t.Context(), p, nil); err != nil {
				t.Error(err)
			}
		}
	}
	workers.Wait()
}
