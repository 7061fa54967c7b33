package bypass

import (
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Address families that x/sys does not name.
const (
	afKCM  = 41
	afSMC  = 43
	afXDP  = 44
	afMCTP = 45

	lastFamily = 45
)

// Errors that say that there is no such socket here: seccomp refuses it, a hook
// does, it needs a capability, or the kernel has no such family or protocol.
const noSuchSocket = "EPERM EACCES EAFNOSUPPORT EPROTONOSUPPORT ESOCKTNOSUPPORT EINVAL ENOSYS ENOPROTOOPT EPROTOTYPE ENODEV"

// socketsGroup: sockets that are neither TCP nor UDP (row 5).
func socketsGroup() group {
	return group{name: "sockets", runner: client, attempts: socketAttempts}
}

func socketAttempts() []attempt {
	none := func(name string, family, kind, protocol int) attempt {
		return attempt{row: 5, name: name, want: "none", try: func(*intruder) string {
			return oneOf(open(family, kind, protocol), noSuchSocket, "none")
		}}
	}
	// The filter leaves these to the hook, which tells.
	hooked := func(name string, family, kind, protocol int) attempt {
		a := none(name, family, kind, protocol)
		a.told = noSocket("socket_type")
		return a
	}
	const icmp, icmp6, sctp, dccp, udplite, mptcp = unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_SCTP, 33, unix.IPPROTO_UDPLITE, unix.IPPROTO_MPTCP
	return []attempt{
		none("raw_icmp", unix.AF_INET, unix.SOCK_RAW, icmp),
		none("raw_tcp", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP),
		none("raw_any", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW),
		none("raw_icmp6", unix.AF_INET6, unix.SOCK_RAW, icmp6),
		none("ping", unix.AF_INET, unix.SOCK_DGRAM, icmp),
		none("ping6", unix.AF_INET6, unix.SOCK_DGRAM, icmp6),
		none("sctp", unix.AF_INET, unix.SOCK_STREAM, sctp),
		none("sctp_seqpacket", unix.AF_INET6, unix.SOCK_SEQPACKET, sctp),
		none("dccp", unix.AF_INET, unix.SOCK_DCCP, dccp),
		none("udplite", unix.AF_INET, unix.SOCK_DGRAM, udplite),
		hooked("mptcp", unix.AF_INET, unix.SOCK_STREAM, mptcp),
		hooked("mptcp6", unix.AF_INET6, unix.SOCK_STREAM, mptcp),
		none("l2tp", unix.AF_INET, unix.SOCK_DGRAM, 115),
		none("smc_over_ip", unix.AF_INET, unix.SOCK_STREAM, 256),
		none("af_packet", unix.AF_PACKET, unix.SOCK_DGRAM, 0x0300),
		none("af_packet_raw", unix.AF_PACKET, unix.SOCK_RAW, 0x0300),
		none("af_packet_old", unix.AF_INET, 10, 0x0300),
		none("af_vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		none("af_vsock_dgram", unix.AF_VSOCK, unix.SOCK_DGRAM, 0),
		none("af_xdp", afXDP, unix.SOCK_RAW, 0),
		none("af_alg", unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		none("tipc", unix.AF_TIPC, unix.SOCK_RDM, 0),
		none("rds", unix.AF_RDS, unix.SOCK_SEQPACKET, 0),
		none("smc", afSMC, unix.SOCK_STREAM, 0),
		none("bluetooth", unix.AF_BLUETOOTH, unix.SOCK_RAW, 1),
		none("can", unix.AF_CAN, unix.SOCK_RAW, 1),
		none("kcm", afKCM, unix.SOCK_DGRAM, 0),
		none("mctp", afMCTP, unix.SOCK_DGRAM, 0),
		none("key", unix.AF_KEY, unix.SOCK_RAW, 2),
		none("rxrpc", unix.AF_RXRPC, unix.SOCK_DGRAM, unix.AF_INET),
		none("pppox", unix.AF_PPPOX, unix.SOCK_STREAM, 0),
		none("nfc", unix.AF_NFC, unix.SOCK_SEQPACKET, 0),
		none("qipcrtr", 42, unix.SOCK_DGRAM, 0),
		none("netlink_generic", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC),
		none("netlink_audit", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT),
		none("netlink_netfilter", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER),
		none("netlink_xfrm", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_XFRM),
		none("netlink_uevent", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT),
		none("netlink_diag", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG),
		none("netlink_crypto", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_CRYPTO),
		{row: 5, name: "route_changes", want: "EPERM EACCES " + "EAFNOSUPPORT EPROTONOSUPPORT", try: changeRoutes},
		{row: 5, name: "every_ip_protocol", want: "none", try: everyIPProtocol},
		{row: 5, name: "every_family", want: "none", try: everyFamily},
		{row: 5, name: "socketpair", want: "none", try: everyPair},
	}
}

func open(family, kind, protocol int) string {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	return ok
}

// everyIPProtocol opens all that there can be over IP, and says which are neither
// TCP nor UDP.
func everyIPProtocol(*intruder) string {
	var found []string
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for kind := 1; kind <= 10; kind++ {
			for protocol := range 263 {
				plain := kind == unix.SOCK_STREAM && (protocol == 0 || protocol == unix.IPPROTO_TCP) ||
					kind == unix.SOCK_DGRAM && (protocol == 0 || protocol == unix.IPPROTO_UDP)
				got := open(family, kind, protocol)
				if plain != (got == ok) {
					found = append(found, fmt.Sprintf("family %d type %d protocol %d: %s", family, kind, protocol, got))
				}
			}
		}
	}
	return listOr(found, "none")
}

// everyFamily opens all families that are not IP, AF_UNIX or the routing netlink.
func everyFamily(*intruder) string {
	var found []string
	for family := range lastFamily + 1 {
		switch family {
		case unix.AF_UNIX, unix.AF_INET, unix.AF_INET6:
			continue
		}
		for kind := 1; kind <= 10; kind++ {
			for protocol := range 24 {
				if family == unix.AF_NETLINK && protocol == unix.NETLINK_ROUTE {
					continue
				}
				if open(family, kind, protocol) == ok {
					found = append(found, fmt.Sprintf("%d/%d/%d", family, kind, protocol))
				}
			}
		}
	}
	return listOr(found, "none")
}

// everyPair makes pairs, which the hook on sockets does not see.
func everyPair(*intruder) string {
	var found []string
	for family := range lastFamily + 1 {
		if family == unix.AF_UNIX {
			continue
		}
		for kind := 1; kind <= 10; kind++ {
			if fds, err := unix.Socketpair(family, kind, 0); err == nil {
				_, _ = unix.Close(fds[0]), unix.Close(fds[1])
				found = append(found, fmt.Sprintf("%d/%d", family, kind))
			}
		}
	}
	return listOr(found, "none")
}

func listOr(found []string, otherwise string) string {
	if len(found) == 0 {
		return otherwise
	}
	return strings.Join(found, ",")
}

// changeRoutes adds a route by the one netlink that programs need.
func changeRoutes(in *intruder) string {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	b := in.v4.As4()
	request := struct {
		header    unix.NlMsghdr
		route     unix.RtMsg
		attribute unix.RtAttr
		to        [4]byte
		device    unix.RtAttr
		index     uint32
	}{
		header: unix.NlMsghdr{Type: unix.RTM_NEWROUTE, Flags: unix.NLM_F_REQUEST | unix.NLM_F_CREATE | unix.NLM_F_ACK},
		route: unix.RtMsg{Family: unix.AF_INET, Dst_len: 32, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC,
			Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST},
		attribute: unix.RtAttr{Len: 8, Type: unix.RTA_DST}, to: b,
		device: unix.RtAttr{Len: 8, Type: unix.RTA_OIF}, index: 1,
	}
	size := unsafe.Sizeof(request)
	request.header.Len = uint32(size)
	if err := unix.Sendto(fd, unsafe.Slice((*byte)(unsafe.Pointer(&request)), size), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return word(err)
	}
	answer := struct {
		header unix.NlMsghdr
		errno  int32
		rest   [512]byte
	}{}
	if _, err := unix.Read(fd, unsafe.Slice((*byte)(unsafe.Pointer(&answer)), unsafe.Sizeof(answer))); err != nil {
		return word(err)
	}
	return nameOf(unix.Errno(-answer.errno))
}
