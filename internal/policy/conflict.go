package policy

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// opened is an endpoint together with the network policy it stands in.
type opened struct {
	*Endpoint
	network  *Network
	settings settings
}

// maxComparisons bounds the work of finding conflicts, in pairs of endpoints and of
// binaries. A policy that needs more has thousands of patterns over one domain.
const maxComparisons = 20_000_000

// conflicts returns the pairs of endpoints of which either could decide one
// connection, that are equally specific and do not agree on how. One problem is
// named for each endpoint.
func conflicts(networks []Network) []Problem {
	groups := overlapGroups(networks)
	c := comparer{left: maxComparisons, told: map[*Endpoint]bool{}, programs: map[*Network]programs{}}
	for _, key := range slices.SortedFunc(maps.Keys(groups), overlapKey.compare) {
		if group := groups[key]; !uniform(group) { // else there are as many as there may be
			c.group(group)
		}
	}
	slices.SortFunc(c.problems, compareProblems)
	return c.problems
}

// overlapKey is what endpoints have in common that could decide one connection.
type overlapKey struct {
	hosts string
	port  Port
}

func (k overlapKey) compare(other overlapKey) int {
	return cmp.Or(cmp.Compare(k.hosts, other.hosts), cmp.Compare(k.port, other.port))
}

func overlapGroups(networks []Network) map[overlapKey][]opened {
	groups := map[overlapKey][]opened{}
	for i := range networks {
		for j := range networks[i].Endpoints {
			e := &networks[i].Endpoints[j]
			settings := e.settings()
			if e.Host.text == "" {
				settings.allowedIPs = "" // where they lead, not how
			}
			for _, port := range e.Ports {
				key := overlapKey{e.Host.group(), port}
				groups[key] = append(groups[key], opened{e, &networks[i], settings})
			}
		}
	}
	return groups
}

// comparer finds conflicts until it has compared as much as it may.
type comparer struct {
	left     int
	told     map[*Endpoint]bool
	programs map[*Network]programs // as they were met
	problems []Problem
}

func (c *comparer) group(group []opened) {
	for i, b := range group {
		for _, a := range group[:i] {
			if c.told[b.Endpoint] {
				break
			}
			if field := c.disagreement(a, b); field != "" {
				c.tell(b, fmt.Sprintf("overlaps the equally specific %s (%s:%d:%d) for the same programs, and differs in %s",
					a.place.Field, a.place.File, a.place.Line, a.place.Column, field))
			}
			if c.left < 0 {
				c.tell(b, "is one of too many that may overlap, more than can be compared; use fewer patterns")
				return
			}
		}
	}
}

func (c *comparer) tell(o opened, message string) {
	c.told[o.Endpoint] = true
	c.problems = append(c.problems, Problem{o.place, message})
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

// disagreement names a field in which two endpoints of one port differ, if both
// could decide the same connection; empty if not. The cheap questions come first.
func (c *comparer) disagreement(a, b opened) string {
	c.left--
	field := a.settings.differs(b.settings)
	switch {
	case field == "",
		a.Host.class() != b.Host.class() || a.Host.literals() != b.Host.literals(),
		!mayOverlap(a.Host.text, b.Host.text),
		a.Host.text == "" && !addressesOverlap(a.AllowedIPs, b.AllowedIPs):
		return ""
	}
	if c.programsOverlap(a.network, b.network) {
		return field
	}
	return ""
}

// programsOverlap reports whether two policies may be for one program. Exact paths
// are looked up; only globs are compared one by one.
func (c *comparer) programsOverlap(a, b *Network) bool {
	exactA, globsA := c.split(a)
	exactB, globsB := c.split(b)
	for path := range exactA {
		if c.left--; exactB[path] {
			return true
		}
	}
	return c.anyOverlap(globsA, maps.Keys(exactB)) || c.anyOverlap(globsB, maps.Keys(exactA)) ||
		c.anyOverlap(globsA, slices.Values(globsB))
}

func (c *comparer) anyOverlap(globs []string, paths iter.Seq[string]) bool {
	for _, glob := range globs {
		for path := range paths {
			if c.left--; mayOverlap(glob, path) {
				return true
			}
		}
	}
	return false
}

// split returns the paths of a policy's programs, without and with stars.
func (c *comparer) split(n *Network) (exact map[string]bool, globs []string) {
	if known, ok := c.programs[n]; ok {
		return known.exact, known.globs
	}
	exact = map[string]bool{}
	for _, b := range n.Binaries {
		if b.Path.IsGlob() {
			globs = append(globs, string(b.Path))
		} else {
			exact[string(b.Path)] = true
		}
	}
	c.programs[n] = programs{exact, globs}
	return exact, globs
}

type programs struct {
	exact map[string]bool
	globs []string
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

// Bounds of what one lookup can bring up, so that no policy makes its decisions
// slow.
const (
	maxCrowd  = 64  // different patterns in one domain or network
	maxSharer = 256 // endpoints of one host, domain or network, and port
)

// crowds returns a problem for each place in the index with too much in it.
func crowds(networks []Network) []Problem {
	c := crowd{patterns: map[string]map[string]bool{}, sharers: map[overlapKey]int{}}
	for i := range networks {
		for j := range networks[i].Endpoints {
			e := &networks[i].Endpoints[j]
			switch {
			case e.Host.wildcard():
				suffix, _ := e.Host.suffix()
				c.add(e, "the domain "+suffix, e.Host.text)
				c.share(e, "the domain "+suffix)
			case e.Host.text != "":
				c.share(e, e.Host.text)
			default:
				buckets := map[string]bool{}
				for _, p := range e.AllowedIPs {
					bucket := "the network " + bucketOf(p.Prefix) + "*"
					c.add(e, bucket, p.String())
					buckets[bucket] = true
				}
				for _, bucket := range slices.Sorted(maps.Keys(buckets)) {
					c.share(e, bucket)
				}
			}
		}
	}
	return c.problems
}

type crowd struct {
	patterns map[string]map[string]bool // by place
	sharers  map[overlapKey]int
	problems []Problem
}

func (c *crowd) add(e *Endpoint, where, pattern string) {
	if c.patterns[where] == nil {
		c.patterns[where] = map[string]bool{}
	}
	if c.patterns[where][pattern] {
		return
	}
	c.patterns[where][pattern] = true
	if len(c.patterns[where]) == maxCrowd+1 {
		c.problems = append(c.problems, Problem{e.place, fmt.Sprintf(
			"is one of more than %d different patterns in %s; use a wider one", maxCrowd, where)})
	}
}

func (c *crowd) share(e *Endpoint, where string) {
	for _, port := range e.Ports {
		key := overlapKey{where, port}
		if c.sharers[key]++; c.sharers[key] == maxSharer+1 {
			c.problems = append(c.problems, Problem{e.place, fmt.Sprintf(
				"is one of more than %d endpoints for %s, port %d; put policies together", maxSharer, where, port)})
		}
	}
}
