package policy

import (
	"net/netip"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/flow"
)

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
	refused := flow.RefusedOverlap(p)
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
