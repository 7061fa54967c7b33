package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// index is a policy in the form that network.rego looks things up in; its head
// comment says what each part is. It is a JSON document, so that the stock opa
// program can read it too.
type index struct {
	endpoints []any
	hosts     map[string]any // exact host -> entry
	wildcards map[string]any // suffix -> expression -> entry
	networks  map[string]any // bucket -> CIDR -> entry
	depths    map[int]bool   // label counts of the suffixes
	policies  map[string]any // key -> binaries and globs
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
		policies:  map[string]any{},
	}
	var all []opened
	for i := range p.networks {
		n := &p.networks[i]
		x.addPrograms(n)
		for j := range n.endpoints {
			all = append(all, opened{&n.endpoints[j], n})
		}
	}
	slices.SortStableFunc(all, precedence) // stable: else by policy key, then as written
	for number, o := range all {
		x.addEndpoint(number, o)
	}
	return x
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
	return cmp.Or(
		cmp.Compare(a.host.class(), b.host.class()),
		cmp.Compare(b.host.literals(), a.host.literals()),
		inspectFirst,
	)
}

func (x *index) addPrograms(n *network) {
	exact := map[string]any{}
	for _, b := range n.binaries {
		if !b.glob() {
			exact[string(b)] = true
		}
	}
	for _, path := range n.targets {
		exact[path] = true
	}
	programs := map[string]any{"binaries": exact}
	if globs := joinGlobs(n.binaries); globs != "" {
		programs["globs"] = globs
		x.patterns++
	}
	x.policies[n.key] = programs
}

func (x *index) addEndpoint(number int, o opened) {
	allowed := make([]any, len(o.allowedIPs))
	for i, p := range o.allowedIPs {
		allowed[i] = p.String()
	}
	x.endpoints = append(x.endpoints, map[string]any{
		"policy":      o.network.key,
		"field":       o.place.Field,
		"inspect":     o.inspect,
		"allowed_ips": allowed,
	})
	switch {
	case o.host.wildcard():
		suffix, depth := o.host.suffix()
		x.depths[depth] = true
		x.patterns++
		addEntry(child(x.wildcards, suffix), o.host.expression(), number, o.ports)
	case o.host.text != "":
		addEntry(x.hosts, o.host.text, number, o.ports)
	default:
		for _, p := range o.allowedIPs {
			addEntry(child(x.networks, bucketOf(p)), p.String(), number, o.ports)
		}
	}
}

// addEntry adds an endpoint's number and ports to the entry of a host.
func addEntry(entries map[string]any, key string, number int, ports []uint16) {
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
	case p.Addr().Is4() && p.Bits() >= 8, p.Bits() >= 16:
		return parts[0]
	}
	return ""
}

// data returns the document that the Rego module reads as data.
func (x *index) data() map[string]any {
	depths := make([]any, 0, len(x.depths))
	for depth := range x.depths {
		depths = append(depths, depth)
	}
	return map[string]any{"ringfence": map[string]any{"index": map[string]any{
		"endpoints": x.endpoints,
		"hosts":     x.hosts,
		"wildcards": x.wildcards,
		"networks":  x.networks,
		"depths":    depths,
		"policies":  x.policies,
	}}}
}
