package bypass

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// udpGroup: datagrams (row 3). The reason udp_connect is counted only, for glibc
// connects to sort addresses: such an attempt leaves no record.
func udpGroup() group {
	return group{name: "udp", runner: client, attempts: func() []attempt {
		to := func(port uint16, send func(netip.AddrPort) string) func(*intruder) string {
			return func(in *intruder) string { return send(netip.AddrPortFrom(in.v4, port)) }
		}
		const no = "EPERM"
		return []attempt{
			{row: 3, name: "sendto", try: to(7, sendTo), want: no, told: byHook("udp")},
			{row: 3, name: "quic", try: to(443, sendQUIC), want: no, told: byHook("udp")},
			{row: 3, name: "ntp", try: to(123, sendTo), want: no, told: byHook("udp")},
			{row: 3, name: "port_0", try: to(0, sendTo), want: "EINVAL"},
			{row: 3, name: "ipv6", want: no, told: byHook("udp"),
				try: func(in *intruder) string { return sendTo(netip.AddrPortFrom(in.v6, 7)) }},
			{row: 3, name: "mapped", want: no, told: byHook("udp"),
				try: func(in *intruder) string { return sendTo(netip.AddrPortFrom(mapped(in.v4), 7)) }},
			{row: 3, name: "ipv4_on_ipv6_socket", try: ipv4OnIPv6, want: no, told: byHook("udp")},
			{row: 3, name: "unspec_family", try: unspecDatagram, want: no, told: byHook("udp")},
			{row: 3, name: "sendmmsg", try: sendMany, want: no, told: byHook("udp")},
			{row: 3, name: "connected", want: no, try: to(7, connectedUDP)},
			{row: 3, name: "connected_mapped", want: no,
				try: func(in *intruder) string { return connectedUDP(netip.AddrPortFrom(mapped(in.v4), 7)) }},
			{row: 3, name: "write_after_refusal", try: writeAnyway, want: "EDESTADDRREQ"},
			{row: 3, name: "connected_to_dns", try: dnsThenElsewhere, want: no, told: byHook("udp")},
			{row: 3, name: "connected_to_loopback", try: loopbackThenElsewhere, want: no, told: byHook("udp")},
			{row: 3, name: "corked", try: corked, want: no, told: byHook("udp")},
			{row: 3, name: "to_open_name", try: datagramToName, want: no, told: byHook("udp")},
			{row: 3, name: "multicast", want: no, told: udpTo("224.0.0.251"),
				try: func(*intruder) string { return sendTo(netip.MustParseAddrPort("224.0.0.251:5353")) }},
			{row: 3, name: "broadcast", want: no + " EACCES", try: broadcast},
			{row: 3, name: "metadata", want: no, told: udpTo("169.254.169.254"),
				try: func(*intruder) string { return sendTo(netip.MustParseAddrPort("169.254.169.254:80")) }},
		}
	}}
}

func udpTo(host string) told { t := byHook("udp"); t.host = host; return t }

func datagramSocket(to netip.Addr) (int, error) {
	return socket(familyOf(to), unix.SOCK_DGRAM, 0)
}

func sendTo(to netip.AddrPort) string { return sendBytes([]byte(payload), to) }

func sendBytes(b []byte, to netip.AddrPort) string {
	fd, err := datagramSocket(to.Addr())
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	return word(unix.Sendto(fd, b, 0, sockaddr(to)))
}

// sendQUIC sends what begins as QUIC's first packet does.
func sendQUIC(to netip.AddrPort) string {
	packet := make([]byte, 1200)
	packet[0] = 0xc3
	binary.BigEndian.PutUint32(packet[1:], 1) // version 1
	packet[5] = 8
	return sendBytes(packet, to)
}

// ipv4OnIPv6 gives an IPv6 socket an address of the other family.
func ipv4OnIPv6(in *intruder) string {
	fd, err := socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	return word(unix.Sendto(fd, []byte(payload), 0, sockaddr(netip.AddrPortFrom(in.v4, portEcho))))
}

// unspecDatagram says no family, which Linux takes for IPv4.
func unspecDatagram(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	raw, text := rawInet4(unix.AF_UNSPEC, in.v4, portEcho), []byte(payload)
	return call(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)), 0,
		uintptr(unsafe.Pointer(&raw)), unsafe.Sizeof(raw))
}

// sendMany sends two datagrams in one call: the first to the sandbox's own
// loopback, which passes.
func sendMany(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	text := []byte(payload)
	vector := unix.Iovec{Base: &text[0]}
	vector.SetLen(len(text))
	to := [2]unix.RawSockaddrInet4{
		rawInet4(unix.AF_INET, netip.AddrFrom4([4]byte{127, 0, 0, 1}), portEcho),
		rawInet4(unix.AF_INET, in.v4, portEcho),
	}
	type message struct {
		header unix.Msghdr
		length uint32
		_      uint32
	}
	var messages [2]message
	for i := range messages {
		h := &messages[i].header
		h.Name, h.Namelen, h.Iov = (*byte)(unsafe.Pointer(&to[i])), uint32(unsafe.Sizeof(to[i])), &vector
		h.SetIovlen(1)
	}
	sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), 2, 0, 0, 0)
	if errno != 0 {
		return nameOf(errno)
	}
	if sent != 1 {
		return ok
	}
	// It stops at the error, which the next call tells.
	return call(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[1])), 1, 0)
}

func connectedUDP(to netip.AddrPort) string {
	fd, err := datagramSocket(to.Addr())
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return word(err)
	}
	return talk(fd)
}

// writeAnyway writes although the connect was refused.
func writeAnyway(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(in.v4, portEcho))); err == nil {
		return ok
	}
	_, err = unix.Write(fd, []byte(payload))
	return word(err)
}

func dnsThenElsewhere(in *intruder) string {
	return elsewhereAfter(in, netip.AddrPortFrom(in.v4, portDNS))
}

func loopbackThenElsewhere(in *intruder) string {
	return elsewhereAfter(in, netip.MustParseAddrPort("127.0.0.1:7"))
}

// elsewhereAfter connects to where it may, and sends to where it may not.
func elsewhereAfter(in *intruder, first netip.AddrPort) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(first)); err != nil {
		return "connect: " + word(err)
	}
	return word(unix.Sendto(fd, []byte(payload), 0, sockaddr(netip.AddrPortFrom(in.v4, portEcho))))
}

// corked begins a datagram to the loopback and ends it elsewhere.
func corked(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	to := sockaddr(netip.AddrPortFrom(in.v4, portEcho))
	if err := unix.Sendto(fd, []byte("x"), unix.MSG_MORE, to); err != nil {
		return word(err)
	}
	return word(unix.Sendto(fd, []byte(payload), 0, to))
}

// datagramToName sends to a synthetic address: a name is no reason to let UDP go.
func datagramToName(in *intruder) string {
	addr, err := lookUp(in.open, "ip4")
	if err != nil {
		return word(err)
	}
	return sendQUIC(netip.AddrPortFrom(addr, 443))
}

func broadcast(*intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
		return word(err)
	}
	return word(unix.Sendto(fd, []byte(payload), 0, &unix.SockaddrInet4{Port: 67, Addr: [4]byte{255, 255, 255, 255}}))
}
