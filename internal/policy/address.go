package policy

import (
	"net/netip"
	"slices"

	"go.yaml.in/yaml/v3"
)

// alwaysRefused are the networks that no connection of a sandbox is relayed to,
// whatever a policy says: so a policy that names them cannot be enforced. (What
// an address resolves to is checked again at the dial, by internal/names.)
var alwaysRefused = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), // link-local, with the metadata service
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("240.0.0.0/4"), // reserved, with 255.255.255.255
	netip.MustParsePrefix("::/127"),      // unspecified and loopback
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// embeddings are the IPv6 networks whose addresses stand for IPv4 ones, with the
// byte at which those start.
var embeddings = []struct {
	network netip.Prefix
	at      int
}{
	{netip.MustParsePrefix("::/96"), 12},
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
}

// refusedNetwork returns an always refused network that overlaps p, directly or
// in an embedded form; invalid for none.
func refusedNetwork(p netip.Prefix) netip.Prefix {
	for _, refused := range alwaysRefused {
		if refused.Overlaps(p) {
			return refused
		}
		if !refused.Addr().Is4() {
			continue
		}
		for _, e := range embeddings {
			if in := embed(refused, e.network, e.at); in.Overlaps(p) {
				return in
			}
		}
	}
	return netip.Prefix{}
}

// embed returns the part of an IPv6 network that stands for an IPv4 network.
func embed(p, network netip.Prefix, at int) netip.Prefix {
	bytes, v4 := network.Addr().As16(), p.Addr().As4()
	copy(bytes[at:], v4[:])
	return netip.PrefixFrom(netip.AddrFrom16(bytes), at*8+p.Bits())
}

// Prefixes shorter than these are more than a site has: worth a second look.
const (
	wideIPv4 = 16
	wideIPv6 = 48
)

// allowedIPs reads the special-purpose networks that an endpoint may lead to.
func (r *reader) allowedIPs(n *yaml.Node, field string) []netip.Prefix {
	var prefixes []netip.Prefix
	r.list(n, field, maxAllowed, "remove the field, or name addresses", func(item *yaml.Node, f string) {
		if p, ok := r.prefix(item, f); ok {
			prefixes = append(prefixes, p)
		}
	})
	slices.SortFunc(prefixes, comparePrefixes)
	return slices.Compact(prefixes)
}

// prefix reads one CIDR or address.
func (r *reader) prefix(n *yaml.Node, field string) (netip.Prefix, bool) {
	text, ok := r.text(n, field, maxName)
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			r.fail(n, field, "%q is neither an address nor a CIDR", text)
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	refused := refusedNetwork(p)
	switch {
	case p.Addr().Is4In6():
		r.fail(n, field, "%s has two readings; write the IPv4 form", text)
	case p != p.Masked():
		r.fail(n, field, "%s has bits behind its prefix; write %s", text, p.Masked())
	case refused.IsValid():
		r.fail(n, field, "%s overlaps %s, which is always refused", text, refused)
	case p.Addr().Is4() && p.Bits() < wideIPv4, p.Addr().Is6() && p.Bits() < wideIPv6:
		r.warn(n, field, "%s is very wide", text)
		return p, true
	default:
		return p, true
	}
	return netip.Prefix{}, false
}
