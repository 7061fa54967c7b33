package policy

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/flow"
)

// A policy as a file says it, and the rules of deciding, written for the eye: each
// endpoint is asked on its own what it misses, and the nearest miss wins. It knows
// no index, no group and no expression.
type (
	modelFile struct {
		Version  int                      `yaml:"version"`
		Networks map[string]*modelNetwork `yaml:"network_policies"`
		links    []Link
		ordered  []place
	}
	modelNetwork struct {
		Name      string          `yaml:"name,omitempty"`
		Endpoints []modelEndpoint `yaml:"endpoints"`
		Binaries  []modelBinary   `yaml:"binaries"`
	}
	modelEndpoint struct {
		Host         string       `yaml:"host,omitempty"`
		Ports        []uint16     `yaml:"ports"`
		AllowedIPs   []string     `yaml:"allowed_ips,omitempty"`
		Protocol     string       `yaml:"protocol,omitempty"`
		Enforcement  string       `yaml:"enforcement,omitempty"`
		Access       string       `yaml:"access,omitempty"`
		Rules        []modelAllow `yaml:"rules,omitempty"`
		DenyRules    []modelRule  `yaml:"deny_rules,omitempty"`
		Path         string       `yaml:"path,omitempty"`
		EncodedSlash bool         `yaml:"allow_encoded_slash,omitempty"`
	}
	modelBinary struct {
		Path   string   `yaml:"path"`
		SHA256 string   `yaml:"sha256,omitempty"`
		Taints []string `yaml:"allow_taints,omitempty"`
	}

	// place is an endpoint where it stands.
	place struct {
		modelEndpoint
		policy, field string
		binaries      []modelBinary
	}
)

// places returns the endpoints in the order in which they decide: the more
// specific host first (a name, a wildcard, one of any depth, none; then the one
// that writes out more), then the inspected, then by the policy's name.
func (f *modelFile) places() []place {
	if f.ordered != nil {
		return f.ordered
	}
	all := []place{}
	for key, network := range f.Networks {
		for i, endpoint := range network.Endpoints {
			all = append(all, place{endpoint, cmp.Or(network.Name, key), fmt.Sprintf("network_policies.%s.endpoints[%d]", key, i), network.Binaries})
		}
	}
	slices.SortFunc(all, func(a, b place) int {
		return cmp.Or(a.unspecific(b), -compareBool(a.inspected(), b.inspected()), strings.Compare(a.policy, b.policy), strings.Compare(a.field, b.field))
	})
	f.ordered = all
	return all
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// unspecific is positive where the other's host is more specific.
func (p place) unspecific(other place) int {
	kind := func(host string) int {
		switch {
		case host == "":
			return 3
		case strings.HasPrefix(host, "**"):
			return 2
		case strings.Contains(host, "*"):
			return 1
		}
		return 0
	}
	letters := func(host string) int { return len(strings.ReplaceAll(host, "*", "")) }
	return cmp.Or(cmp.Compare(kind(p.Host), kind(other.Host)), -cmp.Compare(letters(p.Host), letters(other.Host)))
}

func (p place) inspected() bool { return p.Protocol != "" && p.Protocol != "tcp" }

// names reports whether an endpoint is for the host of a target.
func (p place) names(to flow.Target) bool {
	switch {
	case p.Host == "":
		return to.Addr.IsValid() && slices.ContainsFunc(p.AllowedIPs, func(text string) bool { return prefix(text).Contains(to.Addr) })
	case to.Addr.IsValid():
		return p.Host == to.Host
	}
	return hostMatches(p.Host, to.Host)
}

// prefix reads one CIDR or address.
func prefix(text string) netip.Prefix {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	return netip.MustParsePrefix(text)
}

// nearness lists the reasons from what is wanted to the farthest miss.
var nearness = []flow.Reason{
	flow.ReasonAllowed, flow.ReasonHashMismatch, flow.ReasonHashUnavailable, flow.ReasonHashChanged, flow.ReasonTaintedBinary,
	flow.ReasonWrongBinary, flow.ReasonPortRefused, flow.ReasonWrongPort, flow.ReasonNoEndpoint,
}

func nearer(a, b flow.Reason) flow.Reason {
	return nearness[min(slices.Index(nearness, a), slices.Index(nearness, b))]
}

// outcome is what one endpoint says to a connection.
func (f *modelFile) outcome(p place, id *flow.Identity, to flow.Target) flow.Reason {
	switch {
	case !p.names(to):
		return flow.ReasonNoEndpoint
	case !slices.Contains(p.Ports, to.Port):
		return flow.ReasonWrongPort
	case p.Host == "" && slices.Contains([]uint16{2379, 2380, 6443, 10250, 10255}, to.Port):
		return flow.ReasonPortRefused
	}
	nearest := flow.ReasonWrongBinary
	for _, b := range p.binaries {
		nearest = nearer(nearest, f.program(b, id))
	}
	return nearest
}

// program is what one binary says to a program: its own image and those of its
// ancestors are asked in turn.
func (f *modelFile) program(b modelBinary, id *flow.Identity) flow.Reason {
	nearest := flow.ReasonWrongBinary
	for i, image := range append([]flow.Image{id.Image}, id.Ancestors...) {
		named, lifted := f.image(b, image)
		taints := image.Taints
		if b.SHA256 != "" {
			taints &^= flow.TaintChanged
		}
		if i > 0 {
			taints |= id.Taints
		}
		switch {
		case !named:
			continue
		case !lifted || !b.liftsAll(taints, "changed"):
			nearest = nearer(nearest, flow.ReasonTaintedBinary)
		case !b.liftsAll(taints):
			nearest = nearer(nearest, flow.ReasonHashChanged)
		case b.SHA256 == "" || b.SHA256 == image.SHA256:
			nearest = nearer(nearest, flow.ReasonAllowed)
		case image.SHA256 == "":
			nearest = nearer(nearest, flow.ReasonHashUnavailable)
		default:
			nearest = nearer(nearest, flow.ReasonHashMismatch)
		}
	}
	return nearest
}

// image reports whether a binary stands for an image, by its path or by a link
// that leads to it; and whether by a way that the binary puts up with.
func (f *modelFile) image(b modelBinary, image flow.Image) (named, lifted bool) {
	if pathMatches(b.Path, image.Path) {
		return true, true
	}
	for _, link := range f.links {
		if link.Path == b.Path && link.Target == image.Path {
			named = true
			lifted = lifted || !link.Writable || slices.Contains(b.Taints, "writable")
		}
	}
	return named, lifted
}

func (b modelBinary) liftsAll(taints flow.Taint, too ...string) bool {
	for _, name := range taints.Names() {
		if !slices.Contains(slices.Concat(b.Taints, too, []string{"setuid", "script"}), name) {
			return false
		}
	}
	return true
}

// answer is what is compared of a decision.
type answer struct {
	Verdict                flow.Verdict
	Reason                 flow.Reason
	Policy, Endpoint, Rule string
	Inspect                bool
	AllowedIPs             string
}

func answerOf(d *flow.Decision) answer {
	return answer{d.Verdict, d.Reason, d.Policy, d.Endpoint, d.Rule, d.Inspect, fmt.Sprint(d.AllowedIPs)}
}

func (p place) answer(verdict flow.Verdict, reason flow.Reason, rule string) answer {
	var allowed []netip.Prefix
	for _, text := range p.AllowedIPs {
		allowed = append(allowed, prefix(text))
	}
	slices.SortFunc(allowed, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	return answer{verdict, reason, p.policy, p.field, rule, p.inspected(), fmt.Sprint(allowed)}
}

// decide is the decision on a connection. granted is the endpoint that allows it,
// if one does.
func (f *modelFile) decide(id *flow.Identity, to flow.Target) (a answer, granted *place) {
	reason := flow.ReasonNoEndpoint
	var nearest place
	for _, p := range f.places() {
		if r := f.outcome(p, id, to); r != reason && nearer(r, reason) == r {
			reason, nearest = r, p
		}
	}
	switch {
	case reason == flow.ReasonAllowed && nearest.inspected():
		return nearest.answer(flow.Deny, flow.ReasonInspectionUnavailable, ""), &nearest
	case reason == flow.ReasonAllowed:
		return nearest.answer(flow.Allow, reason, ""), &nearest
	}
	return nearest.answer(flow.Deny, reason, ""), nil
}

// dice makes random policies and questions, in which much is near to something.
type dice struct{ *rand.Rand }

// one returns one of several, at random.
func one[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

// some returns from least to most of several, each once, in their order.
func some[T any](d dice, least, most int, of ...T) []T {
	kept := d.Perm(len(of))[:least+d.IntN(most-least+1)]
	slices.Sort(kept)
	var list []T
	for _, i := range kept {
		list = append(list, of[i])
	}
	return list
}

func (d dice) oneIn(n int) bool { return d.IntN(n) == 0 }

var (
	hashA, hashB = strings.Repeat("a", 64), strings.Repeat("b", 64)
	modelImages  = []string{"/bin/a", "/bin/b", "/bin/c", "/opt/a", "/opt/x/a", "/real/a", "/real/b"}
	modelHosts   = []string{"a.example.com", "b.example.com", "ab.example.com", "a.b.example.com", "a.example.com", "a.b.example.com", "example.com", "192.0.2.1", "2001:db8::1", "10.1.2.3", "10.1.9.9", "10.9.9.9", "fd00:1::5", "11.0.0.1"}
)

// policy makes a random file; the loader may refuse it.
func (d dice) policy(endpoint func() modelEndpoint) *modelFile {
	f := &modelFile{Version: 1, Networks: map[string]*modelNetwork{}}
	for i, name := range d.Perm(1 + d.IntN(4)) {
		n := &modelNetwork{}
		if d.oneIn(2) {
			n.Name = fmt.Sprintf("name-%d", name) // another order than that of the keys
		}
		for range 1 + d.IntN(5) {
			n.Endpoints = append(n.Endpoints, endpoint())
		}
		for range 1 + d.IntN(3) {
			n.Binaries = append(n.Binaries, d.binary())
		}
		f.Networks[fmt.Sprintf("p%d", i)] = n
	}
	for _, path := range some(d, 0, 3, "/bin/a", "/bin/b", "/link") {
		f.links = append(f.links, Link{Path: path, Target: one(d, "/real/a", "/real/b", path), Writable: d.oneIn(3)})
	}
	return f
}

func (d dice) binary() modelBinary {
	b := modelBinary{Path: one(d, "/bin/a", "/bin/a", "/bin/b", "/link", "/bin/*", "/opt/**", "/**/a", "/opt/*/a")}
	if d.oneIn(3) {
		b.Taints = some(d, 1, 3, "deleted", "memfd", "writable", "changed")
	}
	if d.oneIn(3) {
		b.SHA256 = hashA
	}
	return b
}

func (d dice) endpoint() modelEndpoint {
	e := modelEndpoint{
		Host:  one(d, "a.example.com", "a.example.com", "b.example.com", "*.example.com", "**.example.com", "a*.example.com", "*.b.example.com", "a.*.example.com", "192.0.2.1", "10.1.2.3", "", ""),
		Ports: some[uint16](d, 1, 3, 80, 443, 6443),
	}
	if e.Host == "" || d.oneIn(8) {
		e.AllowedIPs = some(d, 1, 3, "10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", "fd00:1::/64", "2001:db8::/32", "192.0.2.0/30")
	}
	if d.oneIn(5) {
		e.Protocol, e.Access = "rest", "full"
	}
	return e
}

func (d dice) image() flow.Image {
	image := flow.Image{Path: one(d, modelImages...), SHA256: one(d, "", hashA, hashB)}
	if d.oneIn(5) {
		image.Taints = one(d, flow.TaintDeleted, flow.TaintMemfd, flow.TaintWritable, flow.TaintDeleted|flow.TaintMemfd, flow.TaintForeignRoot,
			flow.TaintChanged, flow.TaintChanged|flow.TaintScript, flow.TaintSetuid, flow.TaintPreload, 1<<20)
	}
	return image
}

func (d dice) identity() *flow.Identity {
	var ancestors []flow.Image
	for range d.IntN(3) {
		ancestors = append(ancestors, d.image())
	}
	return flow.NewIdentity(d.image(), 1000, 1000, ancestors)
}

// engineOf loads a model's policy; nil where the loader refuses it.
func (f *modelFile) engineOf(t *testing.T, into *Engine) bool {
	t.Helper()
	text, err := yaml.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := Load(Source{"x.yaml", text})
	if err != nil {
		return false
	}
	if err := into.Replace(t.Context(), p, f.links); err != nil {
		t.Fatal(err)
	}
	return true
}

func (f *modelFile) String() string {
	text, _ := yaml.Marshal(f)
	return fmt.Sprintf("%slinks: %+v", text, f.links)
}

// Random policies, and what they say to random connections.
func TestDecideAgainstModel(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(7, 8))}
	e := engine(t, Config{}, "")
	reasons, refused := map[flow.Reason]int{}, 0
	for asked := 0; asked < 5000; {
		f := d.policy(d.endpoint)
		if !f.engineOf(t, e) {
			refused++
			continue
		}
		for range 50 {
			asked++
			id, to := d.identity(), target(t, targetText(one(d, modelHosts...), one(d, "80", "443", "443", "6443", "22")))
			want, _ := f.decide(id, to)
			reasons[want.Reason]++
			if diff := gocmp.Diff(want, answerOf(e.Decide(id, to))); diff != "" {
				t.Fatalf("%s by %+v, ancestors %+v (-model +engine)\n%s\n%s", to, id.Image, id.Ancestors, diff, f)
			}
		}
	}
	cameUp(t, reasons, 10, append(nearness, flow.ReasonInspectionUnavailable)...)
	if refused > 1000 {
		t.Errorf("the loader refuses %d policies: the test says little of the rest", refused)
	}
}

// Networks of every length and random addresses near to them: what opens is what
// the network contains.
func TestNetworksAgainstModel(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(11, 12))}
	address := func() netip.Addr {
		if d.oneIn(2) {
			return netip.AddrFrom4([4]byte{one[byte](d, 10, 11, 172, 192), one[byte](d, 0, 1, 16, 31), one[byte](d, 0, 1), one[byte](d, 0, 1)})
		}
		var b [16]byte
		copy(b[:], one(d, "", "\x20\x01", "\xfd\x00", "\x00\x01")) // much of the rest is zeros
		for range d.IntN(6) {
			b[2+d.IntN(14)] = one[byte](d, 0, 1)
		}
		return netip.AddrFrom16(b)
	}
	inside := func(network netip.Prefix) netip.Addr {
		b := network.Addr().AsSlice()
		for i := (network.Bits() + 7) / 8; i < len(b); i++ {
			b[i] = one[byte](d, 0, 0, 1, 255)
		}
		addr, _ := netip.AddrFromSlice(b)
		return addr
	}
	e := engine(t, Config{}, "")
	contained := 0
	for asked := 0; asked < 5000; {
		addr := address()
		network, _ := addr.Prefix(d.IntN(addr.BitLen() + 1))
		f := &modelFile{Version: 1, Networks: map[string]*modelNetwork{"p": {
			Endpoints: []modelEndpoint{{Ports: []uint16{80}, AllowedIPs: []string{network.String()}}},
			Binaries:  []modelBinary{{Path: "/x"}},
		}}}
		if !f.engineOf(t, e) {
			continue
		}
		for range 100 {
			asked++
			to := flow.AddrTarget(netip.AddrPortFrom(one(d, address(), inside(network)), 80))
			if network.Contains(to.Addr) {
				contained++
			}
			if got := e.Decide(program("/x"), to).Verdict == flow.Allow; got != network.Contains(to.Addr) {
				t.Fatalf("%s in %s: engine %v", to.Addr, network, got)
			}
		}
	}
	if contained < 2000 || contained > 4000 {
		t.Errorf("%d of 5000 addresses were in their network: the test says little", contained)
	}
}

func targetText(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// cameUp makes sure that a random test has met every reason.
func cameUp(t *testing.T, reasons map[flow.Reason]int, least int, wanted ...flow.Reason) {
	t.Helper()
	for _, reason := range wanted {
		if reasons[reason] < least {
			t.Errorf("%s came up %d times: the test says little of it", reason, reasons[reason])
		}
	}
	t.Log(reasons)
}
