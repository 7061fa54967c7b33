package testenv

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// parsePacket reads one packet from its network header on. What cannot be read
// leaves its fields zero: such a packet still is one that arrived. The payload
// shares data.
func parsePacket(etherType uint16, data []byte) Flow {
	flow := Flow{EtherType: etherType}
	var source, destination netip.Addr
	var body []byte
	switch {
	case etherType == unix.ETH_P_IP && len(data) >= 20:
		header := int(data[0]&0x0f) * 4
		flow.Protocol = data[9]
		source, destination = netip.AddrFrom4([4]byte(data[12:16])), netip.AddrFrom4([4]byte(data[16:20]))
		first := binary.BigEndian.Uint16(data[6:8])&0x1fff == 0 // later fragments have no ports
		if header >= 20 && header <= len(data) && first {
			body = data[header:]
		}
	case etherType == unix.ETH_P_IPV6 && len(data) >= 40:
		flow.Protocol = data[6] // extension headers are not followed
		source, destination = netip.AddrFrom16([16]byte(data[8:24])), netip.AddrFrom16([16]byte(data[24:40]))
		body = data[40:]
	default:
		return flow
	}
	sourcePort, destinationPort, payload := parseTransport(flow.Protocol, body)
	flow.Source = netip.AddrPortFrom(source, sourcePort)
	flow.Destination = netip.AddrPortFrom(destination, destinationPort)
	flow.Payload = payload
	return flow
}

func parseTransport(protocol uint8, body []byte) (source, destination uint16, payload []byte) {
	var header int
	switch {
	case protocol == unix.IPPROTO_TCP && len(body) >= 20:
		header = int(body[12]>>4) * 4
	case protocol == unix.IPPROTO_UDP && len(body) >= 8:
		header = 8
	default:
		return 0, 0, body
	}
	if header >= 8 && header <= len(body) {
		payload = body[header:]
	}
	return binary.BigEndian.Uint16(body[0:2]), binary.BigEndian.Uint16(body[2:4]), payload
}

// isLinkChatter reports whether the kernel sent the packet to run the link: ARP,
// IPv6 neighbour discovery and multicast listener reports.
func isLinkChatter(p Flow) bool {
	switch {
	case p.EtherType == unix.ETH_P_ARP:
		return true
	case p.Protocol == unix.IPPROTO_ICMPV6 && len(p.Payload) > 0:
		return p.Payload[0] >= 133 && p.Payload[0] <= 137
	case p.EtherType == unix.ETH_P_IPV6 && p.Protocol == unix.IPPROTO_HOPOPTS:
		return p.Destination.Addr() == netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x16})
	}
	return false
}
