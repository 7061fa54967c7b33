package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// opened is an endpoint together with the network policy it stands in.
type opened struct {
	*Endpoint
	network  *Network
	settings settings
}

// conflicts returns the pairs of endpoints of which either could decide one
// connection, that are equally specific and do not agree on how. One problem is
// named for each endpoint.
func conflicts(networks []Network) []Problem {
	groups := map[string][]opened{}
	for i := range networks {
		for j := range networks[i].Endpoints {
			e := &networks[i].Endpoints[j]
			settings := e.settings()
			if e.Host.text == "" {
				settings.allowedIPs = "" // where they lead, not how
			}
			groups[e.Host.group()] = append(groups[e.Host.group()], opened{e, &networks[i], settings})
		}
	}
	var problems []Problem
	for _, group := range groups {
		if uniform(group) {
			continue // the usual case, and the only one where groups are large
		}
		for i, b := range group {
			for _, a := range group[:i] {
				if field := disagreement(a, b); field != "" {
					problems = append(problems, Problem{b.place, fmt.Sprintf(
						"overlaps the equally specific %s (%s:%d:%d) for the same programs, and differs in %s",
						a.place.Field, a.place.File, a.place.Line, a.place.Column, field)})
					break
				}
			}
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return problems
}

// group returns a key that overlapping, equally specific patterns have in common.
func (h Host) group() string {
	if !h.wildcard() {
		return h.text
	}
	labels := strings.Split(h.text, ".") // three or more, the last two without stars
	return "*." + strings.Join(labels[len(labels)-2:], ".")
}

func uniform(group []opened) bool {
	return !slices.ContainsFunc(group, func(o opened) bool { return o.settings != group[0].settings })
}

// disagreement names a field in which two endpoints differ, if both could decide
// the same connection; empty if not. The cheap questions come first.
func disagreement(a, b opened) string {
	field := a.settings.differs(b.settings)
	switch {
	case field == "",
		a.Host.class() != b.Host.class() || a.Host.literals() != b.Host.literals(),
		!slices.ContainsFunc(a.Ports, func(port Port) bool { return slices.Contains(b.Ports, port) }),
		!mayOverlap(a.Host.text, b.Host.text),
		a.Host.text == "" && !addressesOverlap(a.AllowedIPs, b.AllowedIPs):
		return ""
	}
	for _, one := range a.network.Binaries {
		for _, other := range b.network.Binaries {
			if mayOverlap(string(one.Path), string(other.Path)) {
				return field
			}
		}
	}
	return ""
}

func addressesOverlap(a, b []Prefix) bool {
	return slices.ContainsFunc(a, func(p Prefix) bool {
		return slices.ContainsFunc(b, func(q Prefix) bool { return p.Overlaps(q.Prefix) })
	})
}

func (s settings) differs(t settings) string {
	switch {
	case s.tls != t.tls:
		return "tls"
	case s.allowedIPs != t.allowedIPs:
		return "allowed_ips"
	case s.path != t.path:
		return "" // two inspected endpoints of one host, apart by path
	case s.protocol != t.protocol:
		return "protocol"
	case s.enforcement != t.enforcement:
		return "enforcement"
	}
	return ""
}

// mayOverlap reports whether two patterns could both match one text. Of two
// globs it compares only what stands before the first star and behind the last:
// it may see an overlap where there is none, never the reverse.
func mayOverlap(a, b string) bool {
	if !strings.Contains(a, "*") && !strings.Contains(b, "*") {
		return a == b
	}
	headA, tailA := ends(a)
	headB, tailB := ends(b)
	return (strings.HasPrefix(headA, headB) || strings.HasPrefix(headB, headA)) &&
		(strings.HasSuffix(tailA, tailB) || strings.HasSuffix(tailB, tailA))
}

// ends returns what a pattern writes out at its two ends.
func ends(pattern string) (head, tail string) {
	first, last := strings.IndexByte(pattern, '*'), strings.LastIndexByte(pattern, '*')
	if first < 0 {
		return pattern, pattern
	}
	return pattern[:first], pattern[last+1:]
}

// maxCrowd bounds the patterns that one lookup can bring up, so that no policy
// makes its decisions slow.
const maxCrowd = 64

// crowds returns a problem for each index bucket with too many patterns.
func crowds(networks []Network) []Problem {
	var problems []Problem
	seen := map[string]map[string]bool{}
	add := func(e *Endpoint, bucket, pattern string) {
		if seen[bucket] == nil {
			seen[bucket] = map[string]bool{}
		}
		if seen[bucket][pattern] {
			return
		}
		seen[bucket][pattern] = true
		if len(seen[bucket]) == maxCrowd+1 {
			problems = append(problems, Problem{e.place, fmt.Sprintf(
				"is one of more than %d different patterns in %s; use a wider one", maxCrowd, bucket)})
		}
	}
	for _, n := range networks {
		for i := range n.Endpoints {
			e := &n.Endpoints[i]
			switch {
			case e.Host.wildcard():
				suffix, _ := e.Host.suffix()
				add(e, "the domain "+suffix, e.Host.text)
			case e.Host.text == "":
				for _, p := range e.AllowedIPs {
					add(e, "the network "+bucketOf(p.Prefix)+"*", p.String())
				}
			}
		}
	}
	return problems
}
