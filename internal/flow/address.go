package flow

import (
	"net/netip"
	"slices"
)

// Class says how dangerous it is to dial an address for a sandbox.
type Class uint8

// The classes. The zero value is the strictest.
const (
	// ClassRefused is never dialled: it means the agent's own host, or hands out
	// its credentials.
	ClassRefused Class = iota
	// ClassSpecial is dialled only where the policy or the operator names it.
	ClassSpecial
	// ClassPublic is an ordinary address of the Internet.
	ClassPublic
)

// String returns the class's name.
func (c Class) String() string {
	switch c {
	case ClassSpecial:
		return "special-purpose"
	case ClassPublic:
		return "public"
	default:
		return "refused"
	}
}

// The tables follow the IANA special-purpose address registries.
var (
	// refusedNetworks are lifted by no configuration, so that a policy which names
	// a part of one is refused.
	refusedNetworks = prefixes(
		"0.0.0.0/8",      // this host; Linux takes 0.0.0.0 for loopback
		"127.0.0.0/8",    // loopback
		"169.254.0.0/16", // link-local, and most clouds' metadata
		"224.0.0.0/4",    // multicast
		"240.0.0.0/4",    // reserved, broadcast
		"::/128",         // unspecified
		"::1/128",        // loopback
		"fe80::/10",      // link-local
		"ff00::/8",       // multicast
	)

	// metadata are addresses inside networks that have other uses: these are
	// refused, their networks are not.
	metadata = prefixes(
		"168.63.129.16/32",   // Azure
		"192.0.0.192/32",     // Oracle
		"100.100.100.200/32", // Alibaba
		"fd00:ec2::/32",      // AWS: metadata, DNS, time, pod identity
		"fd20:ce::254/128",   // Google
	)

	specialPurpose = prefixes(
		"10.0.0.0/8",      // private
		"100.64.0.0/10",   // shared (carrier NAT)
		"172.16.0.0/12",   // private
		"192.0.0.0/24",    // protocol assignments
		"192.0.2.0/24",    // documentation
		"192.88.99.0/24",  // 6to4 relays
		"192.168.0.0/16",  // private
		"198.18.0.0/15",   // benchmarking; our own synthetic addresses
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"2001::/23",       // protocol assignments: Teredo, benchmarking, ORCHID
		"2001:db8::/32",   // documentation
		"3fff::/20",       // documentation
	)

	// The Internet uses this prefix alone. The rest (ULA, site-local, local NAT64,
	// discard, segment routing, unassigned) is special, known to us or not.
	globalUnicast = netip.MustParsePrefix("2000::/3")

	// embeddings are the IPv6 networks whose addresses carry an IPv4 address. The
	// v4-mapped form is not here: to the kernel it is the IPv4 address.
	embeddings = []embedding{
		{netip.MustParsePrefix("::/96"), 12},
		{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
		{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
	}
)

// embedding is an IPv6 network and the byte at which the IPv4 address starts.
type embedding struct {
	network netip.Prefix
	at      int
}

// extract returns the IPv4 address that an address of the network carries.
func (e embedding) extract(addr netip.Addr) netip.Addr {
	b := addr.As16()
	return netip.AddrFrom4([4]byte(b[e.at : e.at+4]))
}

// embed returns the part of the network that carries addresses of p.
func (e embedding) embed(p netip.Prefix) netip.Prefix {
	b, v4 := e.network.Addr().As16(), p.Addr().As4()
	copy(b[e.at:], v4[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), e.at*8+p.Bits())
}

// ClassOf returns the class of an address. An address that carries an IPv4
// address inside has that one's class, since a gateway on the way unpacks it.
func ClassOf(addr netip.Addr) Class {
	if !addr.IsValid() || addr.Zone() != "" { // a zone means link-local
		return ClassRefused
	}
	addr = addr.Unmap()
	if contains(refusedNetworks, addr) || contains(metadata, addr) {
		return ClassRefused
	}
	if v4, ok := embedded(addr); ok {
		return ClassOf(v4)
	}
	if contains(specialPurpose, addr) || addr.Is6() && !globalUnicast.Contains(addr) {
		return ClassSpecial
	}
	return ClassPublic
}

// embedded returns the IPv4 address inside an IPv6 address.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	for _, e := range embeddings {
		if e.network.Contains(addr) {
			return e.extract(addr), true
		}
	}
	return netip.Addr{}, false
}

// RefusedOverlap returns a network that is always refused and that overlaps p,
// directly or in an embedded form, or a metadata network that holds all of p;
// invalid for none.
func RefusedOverlap(p netip.Prefix) netip.Prefix {
	for _, refused := range refusedNetworks {
		if refused.Overlaps(p) {
			return refused
		}
		if !refused.Addr().Is4() {
			continue
		}
		for _, e := range embeddings {
			if inside := e.embed(refused); inside.Overlaps(p) {
				return inside
			}
		}
	}
	// Of other networks these are small parts, which no configuration opens either.
	for _, m := range metadata {
		if m.Bits() <= p.Bits() && m.Contains(p.Addr()) {
			return m
		}
	}
	return netip.Prefix{}
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}
