package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// settings are what equally specific endpoints must agree on where they overlap,
// for only one of them can apply.
type settings struct {
	protocol    string // "" at layer 4
	tls         string
	enforcement string
	allowedIPs  string // all of them, sorted
	path        string // chooses between inspected endpoints
}

// The values of an endpoint's fields.
var (
	protocols    = []string{"tcp", "rest", "websocket", "graphql", "mcp", "json-rpc", "sql"}
	tlsModes     = []string{"auto", "terminate", "passthrough", "skip"}
	enforcements = []string{"enforce", "audit"}
	accesses     = []string{"read-only", "read-write", "full"}
)

// inspecting are the fields that make sense only where requests are decided one
// by one. An endpoint that has any of them asks for inspection.
var inspecting = []string{"access", "rules", "deny_rules", "enforcement", "path", "allow_encoded_slash"}

// endpoint reads one item of endpoints.
func (r *reader) endpoint(n *yaml.Node, field string) endpoint {
	e := endpoint{place: r.place(n, field)}
	s := settings{tls: "auto", enforcement: "enforce"}
	seen := r.mapping(n, field, fields{
		"host":                func(v *yaml.Node, f string) { e.host = r.host(v, f) },
		"port":                func(v *yaml.Node, f string) { e.ports = r.appendPort(e.ports, v, f) },
		"ports":               func(v *yaml.Node, f string) { e.ports = append(e.ports, r.ports(v, f)...) },
		"protocol":            func(v *yaml.Node, f string) { s.protocol = r.choice(v, f, protocols...) },
		"tls":                 func(v *yaml.Node, f string) { s.tls = r.choice(v, f, tlsModes...) },
		"enforcement":         func(v *yaml.Node, f string) { s.enforcement = r.choice(v, f, enforcements...) },
		"access":              func(v *yaml.Node, f string) { r.choice(v, f, accesses...) },
		"rules":               r.allowRules,
		"deny_rules":          r.denyRules,
		"allowed_ips":         func(v *yaml.Node, f string) { e.allowedIPs = r.allowedIPs(v, f) },
		"path":                func(v *yaml.Node, f string) { s.path = r.requestPath(v, f) },
		"allow_encoded_slash": r.boolean,
	})
	if n.Kind != yaml.MappingNode {
		return e
	}
	r.endpointWhere(n, field, seen)
	if s.protocol == "tcp" {
		r.tcpOnly(field, seen, e, s)
		s.protocol = "" // what tcp says is how endpoints are without it
	}
	e.inspect = r.endpointInspects(n, field, seen, s)
	s.allowedIPs = joinPrefixes(e.allowedIPs)
	e.settings = s
	return e
}

// endpointWhere checks that an endpoint says where it leads, in one way.
func (r *reader) endpointWhere(n *yaml.Node, field string, seen map[string]*yaml.Node) {
	host := seen["host"]
	empty := host != nil && host.Kind == yaml.ScalarNode && host.Value == ""
	if (host == nil || empty) && seen["allowed_ips"] == nil {
		r.fail(n, field, "has neither host nor allowed_ips, so it leads nowhere; name a host")
	}
	switch {
	case seen["port"] != nil && seen["ports"] != nil:
		r.fail(seen["ports"], field+".ports", "port and ports are both given; keep one")
	case seen["port"] == nil && seen["ports"] == nil:
		r.fail(n, field, "has no port; write port, or ports for several")
	}
}

// tcpOnly checks an endpoint that says it is layer 4 for good.
func (r *reader) tcpOnly(field string, seen map[string]*yaml.Node, e endpoint, s settings) {
	if e.host.addr.IsValid() {
		r.fail(seen["host"], field+".host", "protocol tcp wants a name, not the address %s; leave protocol out", e.host.addr)
	}
	for _, name := range inspecting {
		if seen[name] != nil {
			r.fail(seen[name], field+"."+name, "is for inspected requests; protocol tcp has none")
		}
	}
	if s.tls == "terminate" {
		r.fail(seen["tls"], field+".tls", "terminate is for inspected requests; protocol tcp has none")
	}
}

// endpointInspects checks how the fields of request inspection go together, and
// reports whether the endpoint asks for it.
func (r *reader) endpointInspects(n *yaml.Node, field string, seen map[string]*yaml.Node, s settings) bool {
	base := seen["rules"] != nil || seen["access"] != nil
	if seen["rules"] != nil && seen["access"] != nil {
		r.fail(seen["access"], field+".access", "rules and access are both given; keep one")
	}
	if s.protocol != "" && slices.Contains(protocols, s.protocol) && !base {
		r.fail(seen["protocol"], field+".protocol", "%s inspects requests, and there are no rules and no access to judge them by", s.protocol)
	}
	if seen["deny_rules"] != nil && (s.protocol == "" || !base) {
		r.fail(seen["deny_rules"], field+".deny_rules", "needs a protocol, and rules or access to take from")
	}
	inspects := s.protocol != "" || s.tls == "terminate"
	for _, name := range inspecting {
		inspects = inspects || seen[name] != nil
	}
	if inspects {
		r.warn(n, field, "asks for request inspection, which this version does not do: every connection to it is denied")
	}
	return inspects
}

func (r *reader) appendPort(ports []uint16, n *yaml.Node, field string) []uint16 {
	if port, ok := r.port(n, field); ok {
		ports = append(ports, port)
	}
	return ports
}

func (r *reader) ports(n *yaml.Node, field string) (ports []uint16) {
	r.list(n, field, maxPorts, "name the ports; there is no way to write all of them", func(item *yaml.Node, f string) {
		ports = r.appendPort(ports, item, f)
	})
	return ports
}

func joinPrefixes(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
