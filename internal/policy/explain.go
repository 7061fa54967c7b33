package policy

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
)

// Question is a connection, or one request on it, that a person asks about.
type Question struct {
	Identity *flow.Identity
	Target   flow.Target
	Request  *flow.Request // nil: the connection alone
}

// Explanation says what is decided, and how near each endpoint came.
//
// The decision is the engine's own. The rest is found by walking the whole policy
// in Go, as a person would read it, so that the one can be held against the other:
// the outcome of the first match is the reason of the decision.
type Explanation struct {
	Decision *flow.Decision
	// Matches are the endpoints that name the host, the nearest first.
	Matches []Match
	// Requests are what the endpoints that decide the request say, in the order of
	// precedence; nil without a request, and where none is inspected.
	Requests []RequestMatch
	// Dial is why the target will not be dialled though it is allowed: the reason of a
	// literal address that is refused. Empty otherwise; a name's addresses are checked
	// when it is dialled.
	Dial flow.Reason
	// Programs are the keys of the policies that name exactly the program, and that do
	// not name the host.
	Programs []string
	// Suggestion is YAML that would allow it; empty where nothing can, or need, be
	// added.
	Suggestion string
}

// Match is how an endpoint that names the host stands to a question.
type Match struct {
	Policy, Key string
	Place       Place // of the endpoint
	Host        string
	Ports       []Port
	PortMatches bool
	// Binary is what comes nearest to the program; nil where nothing names it.
	Binary *BinaryMatch
	// Binaries are those of the policy, as written.
	Binaries []Binary
	// Outcome is what would be the reason if there were this endpoint alone.
	Outcome flow.Reason

	endpoint *Endpoint
}

// BinaryMatch is how a binary of a policy names a program.
type BinaryMatch struct {
	Written  BinaryPath
	Resolved string // where a symbolic link leads; empty where it is none
	Image    string // the path that was matched: the program's or an ancestor's
	Ancestor int    // 0 for the program itself, 1 for the nearest ancestor
	Outcome  flow.Reason
	// Taints are those that keep it from matching.
	Taints flow.Taint
}

// granted is the grade of what is allowed. Of that the more specific endpoint
// decides, inspected or not.
const granted = 0

// grade orders outcomes from the best to the farthest miss.
func grade(r flow.Reason) int {
	if r == flow.ReasonInspectionUnavailable {
		r = flow.ReasonAllowed
	}
	return slices.Index([]flow.Reason{
		flow.ReasonAllowed, flow.ReasonHashMismatch, flow.ReasonHashUnavailable,
		flow.ReasonHashChanged, flow.ReasonTaintedBinary, flow.ReasonWrongBinary, flow.ReasonPortRefused, flow.ReasonWrongPort,
	}, r)
}

// Explain answers a question and says why.
func (e *Engine) Explain(q Question) *Explanation {
	g := e.current.Load()
	x := &Explanation{Decision: e.exempt(g, q.Identity, q.Target)}
	if x.Decision != nil {
		return x
	}
	if q.Request != nil {
		x.Decision = g.evaluateRequest(q.Identity, q.Target, *q.Request)
	} else {
		x.Decision = g.decide(q.Identity, q.Target)
	}
	x.Dial = refusedAddress(x.Decision, q.Target)
	w := walk{question: q, links: g.written}
	all := g.policy.byPrecedence()
	for i := range all {
		if m, ok := w.match(all[i]); ok {
			x.Matches = append(x.Matches, m)
		}
	}
	slices.SortStableFunc(x.Matches, func(a, b Match) int { return cmp.Compare(grade(a.Outcome), grade(b.Outcome)) })
	if q.Request != nil {
		x.Requests = requestMatches(x.Matches, *q.Request)
	}
	x.Programs = w.programs(g.policy, x.Matches)
	x.Suggestion = suggest(g.policy, q, x)
	return x
}

// refusedAddress returns why a literal address is not dialled; "" where it is.
func refusedAddress(d *flow.Decision, target flow.Target) flow.Reason {
	if !d.Verdict.Passes() || !target.Addr.IsValid() {
		return ""
	}
	switch flow.ClassOf(target.Addr) {
	case flow.ClassPublic:
		return ""
	case flow.ClassSpecial:
		if slices.ContainsFunc(d.AllowedIPs, func(p netip.Prefix) bool { return p.Contains(target.Addr) }) {
			return ""
		}
		return flow.ReasonPrivateAddress
	}
	return flow.ReasonUnsafeAddress
}

// walk goes over a policy for one question.
type walk struct {
	question Question
	links    []Link
}

// isClusterPort reports whether a port is never opened without a host.
func isClusterPort(port uint16) bool {
	return slices.Contains([]uint16{2379, 2380, 6443, 10250, 10255}, port)
}

// match returns how an endpoint stands to the question, if it names the host.
func (w *walk) match(o opened) (Match, bool) {
	target := w.question.Target
	switch {
	case o.Host.text != "":
		if target.Addr.IsValid() && o.Host.wildcard() || !o.Host.matches(target.Host) {
			return Match{}, false
		}
	case !target.Addr.IsValid() || !slices.ContainsFunc(o.AllowedIPs, func(p Prefix) bool { return p.Contains(target.Addr) }):
		return Match{}, false
	}
	m := Match{
		Policy: o.network.Name, Key: o.network.key, Place: o.place, endpoint: o.Endpoint,
		Host: o.Host.text, Ports: o.Ports, Binaries: o.network.Binaries,
		PortMatches: slices.Contains(o.Ports, Port(target.Port)),
		Binary:      w.nearestBinary(o.network.Binaries),
	}
	m.Outcome = w.outcome(&m)
	return m, true
}

func (w *walk) outcome(m *Match) flow.Reason {
	switch {
	case !m.PortMatches:
		return flow.ReasonWrongPort
	case m.Host == "" && isClusterPort(w.question.Target.Port):
		return flow.ReasonPortRefused
	case m.Binary == nil:
		return flow.ReasonWrongBinary
	case m.Binary.Outcome == flow.ReasonAllowed && m.endpoint.inspect:
		return flow.ReasonInspectionUnavailable
	}
	return m.Binary.Outcome
}

// nearestBinary returns the binary that matches, or comes nearest to it.
func (w *walk) nearestBinary(binaries []Binary) *BinaryMatch {
	images := append([]flow.Image{w.question.Identity.Image}, w.question.Identity.Ancestors...)
	var best *BinaryMatch
	for i := range binaries {
		for depth, image := range images {
			m := w.matchBinary(&binaries[i], image, depth)
			if m == nil {
				continue
			}
			if best == nil || grade(m.Outcome) < grade(best.Outcome) {
				best = m
			}
		}
	}
	return best
}

// matchBinary returns how a binary names an image; nil where it does not.
func (w *walk) matchBinary(b *Binary, image flow.Image, depth int) *BinaryMatch {
	m := &BinaryMatch{Written: b.Path, Image: image.Path, Ancestor: depth, Taints: b.taintsOf(image)}
	if depth > 0 {
		m.Taints |= w.question.Identity.Taints
	}
	if !b.Path.matches(image.Path) {
		link, ok := w.link(b.Path, image.Path)
		if !ok {
			return nil
		}
		m.Resolved = link.Target
		if link.Writable {
			m.Taints |= flow.TaintWritable
		}
	}
	m.Taints &^= b.allowed() | flow.NotedTaints
	switch {
	case m.Taints == flow.TaintChanged:
		m.Outcome = flow.ReasonHashChanged
	case m.Taints != 0:
		m.Outcome = flow.ReasonTaintedBinary
	case b.SHA256 == "" || string(b.SHA256) == image.SHA256:
		m.Outcome = flow.ReasonAllowed
	case image.SHA256 == "":
		m.Outcome = flow.ReasonHashUnavailable
	default:
		m.Outcome = flow.ReasonHashMismatch
	}
	return m
}

func (w *walk) link(path BinaryPath, target string) (Link, bool) {
	i := slices.IndexFunc(w.links, func(l Link) bool { return l.Path == string(path) && l.Target == target && l.Target != l.Path })
	if i < 0 || path.IsGlob() {
		return Link{}, false
	}
	return w.links[i], true
}

// matches reports whether the path stands for a file; the path of a symbolic link
// stands for itself here.
func (p BinaryPath) matches(file string) bool {
	if !p.IsGlob() {
		return string(p) == file
	}
	return regexp.MustCompile(anyOf([]string{pathExpression(string(p))})).MatchString(file)
}

// allowed returns the taints that the binary puts up with.
func (b *Binary) allowed() flow.Taint {
	var all flow.Taint
	for _, name := range b.AllowTaints {
		taint, _ := flow.ParseTaint(string(name))
		all |= taint
	}
	return all
}

// taintsOf returns an image's taints. Where a hash is asked for, it says which file
// is meant, and not what was used first.
func (b *Binary) taintsOf(image flow.Image) flow.Taint {
	if b.SHA256 != "" {
		return image.Taints &^ flow.TaintChanged
	}
	return image.Taints
}

// programs returns the policies that are for the program, less those that match.
func (w *walk) programs(p *Policy, matches []Match) []string {
	var keys []string
	for i := range p.networks {
		n := &p.networks[i]
		if slices.ContainsFunc(matches, func(m Match) bool { return m.Key == n.key }) {
			continue
		}
		// One that is for many programs would open more than was asked for.
		if b := w.nearestBinary(n.Binaries); b != nil && b.Outcome == flow.ReasonAllowed && b.Ancestor == 0 && !b.Written.IsGlob() {
			keys = append(keys, n.key)
		}
	}
	return keys
}
