package bypass

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// networkGroup: TCP to where policy does not say, in every form (rows 1, 2 and 6).
func networkGroup() group {
	return group{name: "network", runner: client, attempts: func() []attempt {
		return append(append(plainAttempts(), formAttempts()...), earlyAttempts()...)
	}}
}

// plainAttempts ignore the proxy.
func plainAttempts() []attempt {
	to := func(port uint16) func(*intruder) string {
		return func(in *intruder) string { return connect(in.v4, port) }
	}
	return []attempt{
		{row: 1, name: "https", try: to(443), want: reset, told: denied("no_endpoint")},
		{row: 1, name: "any_port", try: to(50007), want: reset, told: denied("no_endpoint")},
		{row: 1, name: "port_1", try: to(1), want: reset, told: denied("no_endpoint")},
		{row: 1, name: "port_65535", try: to(65535), want: reset, told: denied("no_endpoint")},
		{row: 1, name: "port_0", try: to(0), want: reset, told: nowhere("no_origin no_endpoint")},
		{row: 1, name: "name_to_other_port", want: reset, told: denied("wrong_port"),
			try: func(in *intruder) string { return connectName(in.open, 8080) }},
	}
}

// formAttempts write addresses in ways that a hook may not know.
func formAttempts() []attempt {
	at := func(text string) func(*intruder) string {
		return func(*intruder) string { return connect(netip.MustParseAddr(text), portEcho) }
	}
	to := func(host string) told { t := denied("no_endpoint"); t.host = host; return t }
	// The sandbox's own loopback, where nobody listens.
	const own = "ECONNREFUSED"
	return []attempt{
		{row: 2, name: "ipv4", want: reset, told: denied("no_endpoint"),
			try: func(in *intruder) string { return connect(in.v4, portEcho) }},
		{row: 2, name: "ipv6", want: reset, told: denied("no_endpoint"),
			try: func(in *intruder) string { return connect(in.v6, portEcho) }},
		{row: 2, name: "mapped", want: reset, told: denied("no_endpoint"),
			try: func(in *intruder) string { return connect(mapped(in.v4), portEcho) }},
		{row: 2, name: "nat64", try: at("64:ff9b::c633:6464"), want: reset, told: to("64:ff9b::c633:6464")},
		{row: 2, name: "compatible", try: at("::c633:6464"), want: reset, told: to("::c633:6464")},
		{row: 2, name: "siit", try: at("::ffff:0:c633:6464"), want: reset, told: to("::ffff:0:c633:6464")},
		{row: 2, name: "6to4", try: at("2002:c633:6409::1"), want: reset, told: to("2002:c633:6409::1")},
		{row: 2, name: "unspecified", try: at("0.0.0.0"), want: own},
		{row: 2, name: "unspecified_v6", try: at("::"), want: own},
		{row: 2, name: "unspecified_mapped", try: at("::ffff:0.0.0.0"), want: own},
		{row: 2, name: "loopback", try: at("127.0.0.1"), want: own},
		{row: 2, name: "loopback_other", try: at("127.83.0.1"), want: own},
		{row: 2, name: "loopback_mapped", try: at("::ffff:127.0.0.1"), want: own},
		{row: 2, name: "own_synthetic", try: at("198.18.0.1"), want: reset, told: stale()},
		{row: 2, name: "slot", try: at("fd52:696e:67fe:53::1"), want: reset, told: to("fd52:696e:67fe:53::1")},
		{row: 2, name: "metadata", try: at("169.254.169.254"), want: reset, told: to("169.254.169.254")},
		{row: 2, name: "metadata_v6", try: at("fd00:ec2::254"), want: reset, told: to("fd00:ec2::254")},
		{row: 2, name: "host", try: at("203.0.113.1"), want: reset, told: to("203.0.113.1")},
		{row: 2, name: "host_v6", try: at("2001:db8:1::1"), want: reset, told: to("2001:db8:1::1")},
		{row: 2, name: "open_literal", try: at(openIPv4), want: reset, told: to(openIPv4)},
		{row: 2, name: "multicast", try: at("224.0.0.1"), want: reset, told: to("224.0.0.1")},
		{row: 2, name: "broadcast", try: at("255.255.255.255"), want: reset, told: to("255.255.255.255")},
		{row: 2, name: "link_local", try: scoped, want: reset, told: to("fe80::1")},
		{row: 2, name: "short_sockaddr", try: shortSockaddr, want: "EINVAL EAFNOSUPPORT"},
		{row: 2, name: "unspec_family", try: unspecFamily, want: reset + " " + ok + " ENOTCONN EPERM EAFNOSUPPORT"},
		{row: 2, name: "source_route", try: sourceRoute, want: reset + " EPERM EINVAL ENETUNREACH"},
		{row: 2, name: "reconnect", try: reconnect, want: reset, told: denied("no_endpoint")},
		{row: 2, name: "same_source_port", try: samePort, want: reset, told: denied("no_endpoint")},
		{row: 2, name: "decimal_octal_forms", try: writtenForms, want: reset, told: told{reason: "no_endpoint", mode: "connect"}},
	}
}

func stale() told {
	return told{reason: "stale_address", mode: "transparent", host: "198.18.0.1"}
}

// scoped connects to a link-local address by the number of an interface.
func scoped(*intruder) string {
	fd, err := socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet6{Port: portEcho, ZoneId: 1, Addr: netip.MustParseAddr("fe80::1").As16()}
	if err := unix.Connect(fd, to); err != nil {
		return refusal(err)
	}
	return talk(fd)
}

// shortSockaddr cuts the address off.
func shortSockaddr(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	raw := rawInet4(unix.AF_INET, in.v4, portEcho)
	return call(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), 7)
}

func rawInet4(family uint16, addr netip.Addr, port uint16) unix.RawSockaddrInet4 {
	return unix.RawSockaddrInet4{Family: family, Port: port<<8 | port>>8, Addr: addr.As4()}
}

// unspecFamily connects with AF_UNSPEC before a real address, which for TCP means
// to disconnect.
func unspecFamily(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	raw := rawInet4(unix.AF_UNSPEC, in.v4, portEcho)
	if got := call(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unsafe.Sizeof(raw)); got != ok {
		return got
	}
	return talk(fd)
}

// sourceRoute has the first hop named by an IP option, and connects to an address
// of the sandbox's own.
func sourceRoute(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	hop := in.v4.As4()
	option := append([]byte{137, 7, 4}, hop[:]...) // strict source route
	if err := unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(append(option, 0))); err != nil {
		return word(err)
	}
	return connectOn(fd, in.v4, portEcho)
}

// reconnect uses the socket of an allowed connection for another one: the hook's
// memory of the first must not answer for the second.
func reconnect(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	addr, err := lookUp(in.open, "ip4")
	if err != nil {
		return word(err)
	}
	if got := connectOn(fd, addr, portEcho); got != data {
		return "control: " + got
	}
	raw := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if got := call(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unsafe.Sizeof(raw)); got != ok {
		return "disconnect: " + got
	}
	return connectOn(fd, in.v4, portEcho)
}

// samePort makes a denied connection from the very port of an allowed one.
func samePort(in *intruder) string {
	addr, err := lookUp(in.open, "ip4")
	if err != nil {
		return word(err)
	}
	from := func(to netip.Addr) string {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return word(err)
		}
		defer unix.Close(fd)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		// Closed by a reset, so that the port is free at once.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 22222, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return "bind: " + word(err)
		}
		return connectOn(fd, to, portEcho)
	}
	if got := from(addr); got != data {
		return "control: " + got
	}
	return from(in.v4)
}

// writtenForms asks the explicit proxy for an address in words that a resolver
// would read as one.
func writtenForms(in *intruder) string {
	b := in.v4.As4()
	forms := map[string]string{}
	for _, form := range numberForms(b) {
		forms[form] = oneOf(connectVia(form+":7"), "400 403", reset)
	}
	// The plain form is the one that is recorded by its address.
	forms["plain"] = oneOf(connectVia(in.v4.String()+":7"), "403", reset)
	return every(forms)
}

// earlyAttempts connect without connect (row 6).
func earlyAttempts() []attempt {
	return []attempt{
		{row: 6, name: "fast_open", want: reset, told: denied("no_endpoint"),
			try: func(in *intruder) string { return fastOpen(in.v4) }},
		{row: 6, name: "fast_open_v6", want: reset, told: denied("no_endpoint"),
			try: func(in *intruder) string { return fastOpen(in.v6) }},
		{row: 6, name: "fast_open_mapped", want: reset, told: denied("no_endpoint"),
			try: func(in *intruder) string { return fastOpen(mapped(in.v4)) }},
		{row: 6, name: "fast_open_connect", try: fastOpenConnect, want: reset, told: denied("no_endpoint")},
		{row: 6, name: "io_uring", want: "quiet", try: func(*intruder) string {
			var params [120]byte
			return oneOf(every(map[string]string{
				"setup":    call(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&params))),
				"enter":    call(unix.SYS_IO_URING_ENTER, 0, 1, 1, 0),
				"register": call(unix.SYS_IO_URING_REGISTER, 0, 0, 0, 0),
			}), refusedCall, quiet)
		}},
		{row: 6, name: "nonblocking", try: nonblocking, want: reset, told: denied("no_endpoint")},
	}
}

// fastOpen sends the first bytes with the SYN, by sendmsg.
func fastOpen(to netip.Addr) string {
	fd, err := socket(familyOf(to), unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	_, err = unix.SendmsgN(fd, []byte(payload), nil, sockaddr(netip.AddrPortFrom(to, portEcho)), unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL)
	if err != nil {
		return heard(0, err)
	}
	return hear(fd)
}

// fastOpenConnect puts the connect off until the first write.
func fastOpenConnect(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
		return word(err)
	}
	return connectOn(fd, in.v4, portEcho)
}

func nonblocking(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, sockaddr(netip.AddrPortFrom(in.v4, portEcho)))
	if got := refusal(err); got != ok && got != "EINPROGRESS" {
		return got
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if _, err := unix.Poll(poll, int(ioTimeout.Milliseconds())); err != nil {
		return word(err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return word(err)
	}
	return talk(fd)
}
