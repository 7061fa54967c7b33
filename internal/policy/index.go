package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// index is a policy in the form that the Rego looks things up in; the head
// comments of network.rego and request.rego say what each part is. It is a JSON
// document, so that the stock opa program can read it too.
type index struct {
	endpoints []any
	hosts     map[string]any // exact host -> entry
	wildcards map[string]any // suffix -> expression -> entry
	networks  map[string]any // bucket -> CIDR -> entry
	depths    map[int]bool   // label counts of the suffixes
	programs  map[string]any // key -> groups of binaries
	patterns  int            // regular expressions in all
}

// newIndex compiles a policy. Endpoints are numbered in the order of precedence,
// so that the smallest number that matches decides.
func newIndex(p *Policy) *index {
	x := &index{
		endpoints: []any{},
		hosts:     map[string]any{},
		wildcards: map[string]any{},
		networks:  map[string]any{},
		depths:    map[int]bool{},
		programs:  map[string]any{},
	}
	for i := range p.networks {
		x.programs[p.networks[i].key] = x.groups(p.networks[i].Binaries)
	}
	all := p.byPrecedence()
	tier := 0
	for number, o := range all {
		if number > 0 && specificity(all[number-1], o) != 0 {
			tier++
		}
		x.addEndpoint(number, tier, o)
	}
	return x
}

// byPrecedence returns all endpoints, the one that decides before all others first.
func (p *Policy) byPrecedence() []opened {
	var all []opened
	for i := range p.networks {
		n := &p.networks[i]
		for j := range n.Endpoints {
			all = append(all, opened{&n.Endpoints[j], n, n.Endpoints[j].settings()})
		}
	}
	slices.SortStableFunc(all, precedence) // stable: else by policy name, then as written
	return all
}

// precedence orders endpoints: the more specific host first, and of two equal
// ones the inspected, so that an overlap never takes inspection away.
func precedence(a, b opened) int {
	inspectFirst := 0
	if a.inspect != b.inspect {
		inspectFirst = 1
		if a.inspect {
			inspectFirst = -1
		}
	}
	return cmp.Or(specificity(a, b), inspectFirst)
}

// specificity is negative where a is more specific; of one tier are endpoints for
// which it is zero.
func specificity(a, b opened) int {
	return cmp.Or(
		cmp.Compare(a.Host.class(), b.Host.class()),
		cmp.Compare(b.Host.literals(), a.Host.literals()))
}

// groups gathers binaries with the same conditions. Most policies have one group.
func (x *index) groups(binaries []Binary) []any {
	type conditions struct {
		taints string
		sha256 Digest
	}
	var order []conditions
	members := map[conditions][]Binary{}
	for _, b := range binaries {
		c := conditions{fmt.Sprint(slices.Sorted(slices.Values(b.AllowTaints))), b.SHA256}
		if members[c] == nil {
			order = append(order, c)
		}
		members[c] = append(members[c], b)
	}
	groups := make([]any, len(order))
	for i, c := range order {
		groups[i] = x.group(members[c])
	}
	return groups
}

func (x *index) group(binaries []Binary) map[string]any {
	paths, taints := map[string]any{}, map[string]any{}
	var globs []string
	for _, b := range binaries {
		if b.Path.IsGlob() {
			globs = append(globs, pathExpression(string(b.Path)))
		} else {
			paths[string(b.Path)] = true
		}
	}
	for _, name := range binaries[0].AllowTaints {
		taints[string(name)] = true
	}
	group := map[string]any{"paths": paths, "taints": taints}
	if globs != nil {
		group["globs"] = anyOf(globs)
		x.patterns++
	}
	if pin := binaries[0].SHA256; pin != "" {
		group["sha256"] = string(pin)
	}
	return group
}

func (x *index) addEndpoint(number, tier int, o opened) {
	allowed := make([]any, len(o.AllowedIPs))
	for i, p := range o.AllowedIPs {
		allowed[i] = p.String()
	}
	endpoint := map[string]any{
		"policy":      o.network.Name,
		"key":         o.network.key,
		"field":       o.place.Field,
		"tier":        tier,
		"inspect":     o.inspect,
		"allowed_ips": allowed,
	}
	if o.inspect {
		x.addInspection(endpoint, o)
	}
	x.endpoints = append(x.endpoints, endpoint)
	switch {
	case o.Host.wildcard():
		suffix, depth := o.Host.suffix()
		x.depths[depth] = true
		x.patterns++
		addEntry(child(x.wildcards, suffix), o.Host.expression(), number, o.Ports)
	case o.Host.text != "":
		addEntry(x.hosts, o.Host.text, number, o.Ports)
	default:
		for _, p := range o.AllowedIPs {
			addEntry(child(x.networks, bucketOf(p.Prefix)), p.String(), number, o.Ports)
		}
	}
}

// addInspection adds what requests are judged by.
func (x *index) addInspection(endpoint map[string]any, o opened) {
	endpoint["protocol"] = string(o.settings.protocol)
	endpoint["enforcement"] = string(o.settings.enforcement)
	endpoint["encoded_slash"] = o.AllowEncodedSlash
	if o.Path != "" {
		endpoint["path"] = map[string]any{"match": x.pattern(o.Path), "literals": o.Path.literals()}
	}
	if o.Access != "" {
		endpoint["access"] = string(o.Access)
	}
	allow, deny := make([]any, len(o.Rules)), make([]any, len(o.DenyRules))
	for i, rule := range o.Rules {
		allow[i] = x.rule(rule.Allow)
	}
	for i, rule := range o.DenyRules {
		deny[i] = x.rule(rule)
	}
	endpoint["rules"], endpoint["deny_rules"] = allow, deny
}

func (x *index) rule(rule Rule) map[string]any {
	query := map[string]any{}
	for key, values := range rule.Query {
		query[key] = values.expression()
		x.patterns++
	}
	compiled := map[string]any{"method": string(cmp.Or(rule.Method, "*")), "query": query}
	if rule.Path != "" {
		compiled["path"] = x.pattern(rule.Path)
	}
	return compiled
}

func (x *index) pattern(glob PathGlob) string {
	x.patterns++
	return anyOf([]string{pathExpression(string(glob))})
}

// addEntry adds an endpoint's number and ports to the entry of a host.
func addEntry(entries map[string]any, key string, number int, ports []Port) {
	entry, ok := entries[key].(map[string]any)
	if !ok {
		entry = map[string]any{"first": number, "ports": map[string]any{}}
		entries[key] = entry
	}
	byPort := entry["ports"].(map[string]any)
	for _, port := range ports {
		key := strconv.Itoa(int(port))
		numbers, _ := byPort[key].([]any)
		byPort[key] = append(numbers, number)
	}
}

func child(parent map[string]any, key string) map[string]any {
	m, ok := parent[key].(map[string]any)
	if !ok {
		m = map[string]any{}
		parent[key] = m
	}
	return m
}

// bucketOf returns the start, in canonical text, of every address in a network:
// what network.rego calls a bucket.
func bucketOf(p netip.Prefix) string {
	separator := "."
	if p.Addr().Is6() {
		separator = ":"
	}
	parts := strings.SplitN(p.Addr().String(), separator, 3)
	switch {
	case p.Addr().Is4() && p.Bits() >= 16:
		return parts[0] + "." + parts[1]
	case p.Addr().Is4() && p.Bits() >= 8, p.Bits() >= 16 && parts[0] != "0": // a run of zeros may be left out
		return parts[0]
	}
	return ""
}

// data returns the document that the Rego module reads as data.
func (x *index) data() map[string]any {
	depths := make([]any, 0, len(x.depths))
	for _, depth := range slices.Sorted(maps.Keys(x.depths)) {
		depths = append(depths, depth)
	}
	return map[string]any{"ringfence": map[string]any{"index": map[string]any{
		"endpoints": x.endpoints,
		"hosts":     x.hosts,
		"wildcards": x.wildcards,
		"networks":  x.networks,
		"depths":    depths,
		"programs":  x.programs,
	}}}
}
