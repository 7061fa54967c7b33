package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// settings are what equally specific endpoints must agree on where they overlap,
// for only one of them can apply.
type settings struct {
	protocol    Protocol // "" at layer 4
	tls         TLS
	enforcement Enforcement
	allowedIPs  string   // all of them, sorted
	path        PathGlob // chooses between inspected endpoints
}

func (e *Endpoint) settings() settings {
	protocol := e.Protocol
	switch {
	case protocol == protocolTCP:
		protocol = "" // what tcp says is how endpoints are without it
	case e.inspect:
		protocol = cmp.Or(protocol, protocolREST)
	}
	return settings{
		protocol:    protocol,
		tls:         cmp.Or(e.TLS, tlsAuto),
		enforcement: cmp.Or(e.Enforcement, enforce),
		allowedIPs:  joinPrefixes(e.AllowedIPs),
		path:        e.Path,
	}
}

func (*Endpoint) example() string { return "- { host: example.com, port: 443 }" }

// inspecting returns the fields that make sense only where requests are decided
// one by one.
func inspecting() []string {
	return []string{"access", "rules", "deny_rules", "enforcement", "path", "allow_encoded_slash"}
}

// check looks at how the fields of an endpoint go together.
func (e *Endpoint) check(r *reader) {
	e.checkWhere(r)
	if e.Protocol == protocolTCP {
		e.checkTCP(r)
	}
	e.checkInspection(r)
	// From here on there is one form.
	if e.Port != 0 {
		e.Ports, e.Port = append(e.Ports, e.Port), 0
	}
	e.AllowedIPs = sortPrefixes(e.AllowedIPs)
}

// checkWhere checks that an endpoint says where it leads, in one way.
func (e *Endpoint) checkWhere(r *reader) {
	written := e.values["host"]
	if (written == nil || written.Value == "" && len(written.Content) == 0) && !e.has("allowed_ips") {
		r.fail(e.node, e.place.Field, "has neither host nor allowed_ips, so it leads nowhere; name a host")
	}
	e.checkAddress(r)
	switch {
	case e.has("port") && e.has("ports"):
		e.fail(r, "ports", "port and ports are both given; keep one")
	case !e.has("port") && !e.has("ports"):
		r.fail(e.node, e.place.Field, "has no port; write port, or ports for several")
	}
}

// checkAddress warns of a host that will not be dialled as things stand.
func (e *Endpoint) checkAddress(r *reader) {
	addr := e.Host.addr
	switch {
	case e.Host.text == "localhost" || strings.HasSuffix(e.Host.text, ".localhost"):
		r.warn(e.values["host"], e.place.Field+".host", "%s is this host, which is always refused; programs of the sandbox reach each other on it without a policy", e.Host.text)
	case addr.IsValid() && flow.ClassOf(addr) == flow.ClassSpecial &&
		!slices.ContainsFunc(e.AllowedIPs, func(p Prefix) bool { return p.Contains(addr) }):
		r.warn(e.values["host"], e.place.Field+".host", "%s is a special-purpose (private) address, which is dialled only where allowed_ips names it; add \"allowed_ips: [%s]\"", addr, addr)
	}
}

// checkTCP checks an endpoint that says it is layer 4 for good.
func (e *Endpoint) checkTCP(r *reader) {
	if e.Host.addr.IsValid() {
		e.fail(r, "host", "protocol tcp wants a name, not the address %s; leave protocol out", e.Host.addr)
	}
	for _, name := range inspecting() {
		if e.has(name) {
			e.fail(r, name, "is for inspected requests; protocol tcp has none")
		}
	}
	if e.TLS == tlsTerminate {
		e.fail(r, "tls", "terminate is for inspected requests; protocol tcp has none")
	}
}

// checkLeftovers looks for parts of request inspection where there is none.
func (e *Endpoint) checkLeftovers(r *reader) {
	for _, name := range []string{"path", "allow_encoded_slash"} {
		if e.has(name) {
			e.fail(r, name, "is for inspected requests, and there are no rules and no access to judge them by")
		}
	}
	if e.has("enforcement") {
		r.warn(e.values["enforcement"], e.place.Field+".enforcement", "is for inspected requests, and has no effect without rules or access: connections are always enforced")
	}
}

// checkInspection checks how the fields of request inspection go together, and
// finds out whether the endpoint asks for it.
func (e *Endpoint) checkInspection(r *reader) {
	base := e.has("rules") || e.has("access")
	layer7 := e.Protocol != "" && e.Protocol != protocolTCP
	if e.has("rules") && e.has("access") {
		e.fail(r, "access", "rules and access are both given; keep one")
	}
	if layer7 && !base {
		e.fail(r, "protocol", "%s inspects requests, and there are no rules and no access to judge them by; add \"access: read-only\", or rules", e.Protocol)
	}
	if e.has("deny_rules") && e.Protocol == "" {
		e.fail(r, "deny_rules", "needs a protocol; add \"protocol: rest\"")
	}
	if e.has("deny_rules") && !base {
		e.fail(r, "deny_rules", "has nothing to take from; add \"access: full\", or rules")
	}
	if e.Protocol == protocolTCP {
		return
	}
	judged := base || layer7 || e.has("deny_rules")
	e.inspect = judged || e.TLS == tlsTerminate
	if e.inspect && !judged {
		e.Access = accessFull
		r.warn(e.values["tls"], e.place.Field+".tls", "terminate without rules allows every request; write \"access: full\" to say so")
	}
	if !e.inspect {
		e.checkLeftovers(r)
	}
	if e.inspect {
		r.warn(e.node, e.place.Field, "asks for request inspection, which this version does not do: every connection to it is denied")
	}
}
