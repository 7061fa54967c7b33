package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/flow"
)

// Prefixes shorter than these are more than a site has: worth a second look.
const (
	wideIPv4 = 16
	wideIPv6 = 48
)

// Prefix is a network in CIDR notation, or one address.
type Prefix struct{ netip.Prefix }

// MarshalText writes one address without its length.
func (p Prefix) MarshalText() ([]byte, error) {
	if p.IsSingleIP() {
		return []byte(p.Addr().String()), nil
	}
	return p.Prefix.MarshalText()
}

// read takes one CIDR or address that an endpoint may lead to.
func (p *Prefix) read(r *reader, n *yaml.Node, field string) {
	text, ok := r.text(n, field, maxName)
	if !ok {
		return
	}
	parsed, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			r.fail(n, field, "%q is neither an address nor a CIDR", text)
			return
		}
		parsed = netip.PrefixFrom(addr, addr.BitLen())
	}
	refused := flow.RefusedOverlap(parsed)
	switch {
	case parsed.Addr().Is4In6():
		r.fail(n, field, "%s has two readings; write the IPv4 form", text)
	case parsed != parsed.Masked():
		r.fail(n, field, "%s has bits behind its prefix; write %s", text, parsed.Masked())
	case refused.IsValid():
		r.fail(n, field, "%s overlaps %s, which is always refused", text, refused)
	case parsed.Addr().Is4() && parsed.Bits() < wideIPv4, parsed.Addr().Is6() && parsed.Bits() < wideIPv6:
		r.warn(n, field, "%s is very wide", text)
		p.Prefix = parsed
	default:
		p.Prefix = parsed
	}
}

// sortPrefixes puts a list into the one order in which it is compared.
func sortPrefixes(prefixes []Prefix) []Prefix {
	slices.SortFunc(prefixes, func(a, b Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(prefixes)
}

func joinPrefixes(prefixes []Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

// Port is a TCP port; zero is none.
type Port uint16

// read takes a port. Only plain decimal has one reading.
func (p *Port) read(r *reader, n *yaml.Node, field string) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" {
		r.fail(n, field, "must be a number (1-65535), not %s", describe(n))
		return
	}
	port, err := flow.ParsePort(n.Value)
	if err != nil {
		r.fail(n, field, "%q is not a port (1-65535)", n.Value)
	}
	*p = Port(port)
}
