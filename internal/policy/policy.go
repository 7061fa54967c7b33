// Package policy judges connections: it reads the policy YAML, compiles it into
// one immutable generation, and asks OPA which of its endpoints, if any, lets a
// program image connect to a target.
//
// The way through it is Load (sources to Policy), NewEngine (Policy to
// generation) and Engine.Decide. What a policy means is written in Rego, in the
// folder policies of the module; this package turns globs into anchored
// expressions and lists into indexes, so that the Rego has only to look things
// up. Nothing here opens files, resolves names or knows the special-purpose
// addresses of an operator: a decision depends on the policy, the identity and
// the target alone.
//
// Whatever cannot be enforced as it is written does not load.
package policy

import "net/netip"

// Policy is a set of network policies and the user they are meant for, loaded
// from one or more sources. It is immutable.
type Policy struct {
	user, group string
	networks    []network // sorted by key
}

// network is one entry of network_policies: these programs may connect there.
type network struct {
	place     Place
	key       string
	endpoints []endpoint
	binaries  []binary
	targets   []string // the files that binaries are links to; never globs
}

// endpoint is one place that a network policy opens.
type endpoint struct {
	place      Place
	host       hostPattern // zero: any address in allowedIPs
	ports      []uint16
	allowedIPs []netip.Prefix // sorted
	inspect    bool           // its requests are to be decided one by one
	settings   settings
}

// Process returns the user and group that the policy names, as a name or a
// decimal number each; empty where it names none.
func (p *Policy) Process() (user, group string) { return p.user, p.group }
