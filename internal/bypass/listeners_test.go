package bypass

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// listenersGroup: the agent's own listeners in the sandbox (row 8).
func listenersGroup() group {
	return group{name: "listeners", runner: client, attempts: func() []attempt {
		return append(reachAttempts(), bindAttempts()...)
	}}
}

// onLoopback is the record of a refused connect to a listener.
func onLoopback(host string) told {
	return told{reason: "reserved_port", mode: "kernel", host: host}
}

func reachAttempts() []attempt {
	const no = "EPERM"
	at := func(addr string, port uint16) func(*intruder) string {
		return func(*intruder) string { return connect(netip.MustParseAddr(addr), port) }
	}
	return []attempt{
		{row: 8, name: "capture", try: at("127.0.0.1", capturePort), want: no, told: onLoopback("127.0.0.1")},
		{row: 8, name: "capture_v6", try: at("::1", capturePort), want: no, told: onLoopback("::1")},
		{row: 8, name: "capture_mapped", try: at("::ffff:127.0.0.1", capturePort), want: no, told: onLoopback("127.0.0.1")},
		{row: 8, name: "capture_unspecified", try: at("0.0.0.0", capturePort), want: no, told: onLoopback("0.0.0.0")},
		{row: 8, name: "capture_unspecified_v6", try: at("::", capturePort), want: no, told: onLoopback("::")},
		{row: 8, name: "capture_127_9", try: at("127.9.9.9", capturePort), want: no, told: onLoopback("127.9.9.9")},
		{row: 8, name: "dns_listener", try: at("127.0.0.1", dnsPort), want: no, told: onLoopback("127.0.0.1")},
		{row: 8, name: "dns_listener_udp", want: no, told: onLoopback("127.0.0.1"),
			try: func(*intruder) string { return sendTo(netip.AddrPortFrom(loopback(), dnsPort)) }},
		{row: 8, name: "dns_slot_udp", want: no, told: onLoopback("127.83.0.1"),
			try: func(*intruder) string { return sendTo(netip.MustParseAddrPort("127.83.0.1:15053")) }},
		// These end at the agent all the same, as connections of their own.
		{row: 8, name: "capture_own_address", try: at("198.18.0.1", capturePort), want: reset, told: stale()},
		{row: 8, name: "proxy_not_by_connect", want: reset, told: denied("no_endpoint"),
			try: func(in *intruder) string { return connect(in.v4, proxyPort) }},
		{row: 8, name: "fast_open_capture", want: no, try: func(*intruder) string {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return word(err)
			}
			defer unix.Close(fd)
			_, err = unix.SendmsgN(fd, []byte(payload), nil, &unix.SockaddrInet4{Port: capturePort, Addr: loopback().As4()}, unix.MSG_FASTOPEN)
			return word(err)
		}},
	}
}

func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

func bindAttempts() []attempt {
	bind := func(family, kind int, addr string, port int, options ...int) func(*intruder) string {
		return func(*intruder) string { return bindTo(family, kind, addr, port, options...) }
	}
	const stream, dgram = unix.SOCK_STREAM, unix.SOCK_DGRAM
	const v4, v6 = unix.AF_INET, unix.AF_INET6
	refused := noSocket("reserved_port")
	const no = "EPERM EACCES"
	return []attempt{
		{row: 8, name: "bind_capture", try: bind(v4, stream, "127.0.0.1", capturePort), want: no, told: refused},
		{row: 8, name: "bind_capture_any", try: bind(v4, stream, "0.0.0.0", capturePort), want: no, told: refused},
		{row: 8, name: "bind_capture_v6", try: bind(v6, stream, "::", capturePort), want: no, told: refused},
		{row: 8, name: "bind_capture_127_2", try: bind(v4, stream, "127.0.0.2", capturePort), want: no, told: refused},
		{row: 8, name: "bind_reuseport", try: bind(v4, stream, "127.0.0.1", capturePort, unix.SO_REUSEPORT, unix.SO_REUSEADDR), want: no, told: refused},
		{row: 8, name: "bind_proxy_reuseport", try: bind(v6, stream, "::1", proxyPort, unix.SO_REUSEPORT), want: no, told: refused},
		{row: 8, name: "bind_dns_udp", try: bind(v4, dgram, "127.0.0.53", dnsPort, unix.SO_REUSEPORT), want: no, told: refused},
		{row: 8, name: "bind_dns_slot", try: bind(v4, dgram, "127.83.0.1", dnsPort, unix.SO_REUSEPORT, unix.SO_REUSEADDR), want: no, told: refused},
		{row: 8, name: "bind_0_narrow", want: "never", try: narrowRange},
		{row: 8, name: "bind_0_many", want: "never", try: bindMany},
		{row: 8, name: "source_port_narrow", want: "never", try: narrowSource},
		{row: 8, name: "listen_without_bind", want: "never", try: listenUnbound},
		{row: 8, name: "reserved_ports", want: "EROFS EACCES EPERM ENOENT", try: writeReserved},
	}
}

func bindTo(family, kind int, addr string, port int, options ...int) string {
	fd, err := socket(family, kind, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	for _, option := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return word(err)
		}
	}
	return word(unix.Bind(fd, sockaddr(netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)))))
}

// ipLocalPortRange is IP_LOCAL_PORT_RANGE (Linux 6.3), which x/sys does not have.
const ipLocalPortRange = 51

// gotReserved says whether a socket has the port of a listener.
func gotReserved(fd int) string {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return word(err)
	}
	port := 0
	switch n := name.(type) {
	case *unix.SockaddrInet4:
		port = n.Port
	case *unix.SockaddrInet6:
		port = n.Port
	}
	if port == capturePort || port == dnsPort || port == proxyPort {
		return fmt.Sprint("got port ", port)
	}
	return "never"
}

// narrowRange lets the kernel pick from a range that is the listener's port alone.
func narrowRange(*intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	// An older kernel refuses the option, and picks from all.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, capturePort<<16|capturePort)
	if err := unix.Bind(fd, &unix.SockaddrInet4{}); err != nil {
		return oneOf(word(err), "EADDRINUSE EPERM EACCES", "never")
	}
	return gotReserved(fd)
}

// narrowSource lets a connect pick its source port from such a range: that takes
// nothing from a listener, but the port is not to be had either.
func narrowSource(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, dnsPort<<16|dnsPort)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: portEcho, Addr: loopback().As4()}); err != nil {
		return oneOf(word(err), "EAGAIN EADDRNOTAVAIL EADDRINUSE EPERM", "never")
	}
	return gotReserved(fd)
}

// bindMany has the kernel pick as often as there are descriptors.
func bindMany(*intruder) string {
	const sockets = 900
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for range sockets {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			break
		}
		fds = append(fds, fd)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback().As4()}); err != nil {
			return word(err)
		}
		if got := gotReserved(fd); got != "never" {
			return got
		}
	}
	if len(fds) < sockets/2 {
		return fmt.Sprint("only ", len(fds), " sockets")
	}
	return "never"
}

// listenUnbound listens on a socket that was not bound.
func listenUnbound(*intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, proxyPort<<16|proxyPort)
	if err := unix.Listen(fd, 1); err != nil {
		return oneOf(word(err), "EADDRINUSE EPERM EACCES", "never")
	}
	return gotReserved(fd)
}

// writeReserved takes the ports off the list of those that are never picked.
func writeReserved(*intruder) string {
	fd, err := unix.Open("/proc/sys/net/ipv4/ip_local_reserved_ports", unix.O_WRONLY, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("\n"))
	return word(err)
}
