package bypass

import (
	"fmt"
	"net/netip"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// floodsGroup: more of everything than the tables hold (row 29). After each flood
// what is allowed still is, or is refused, and nothing else ever passes.
func floodsGroup() group {
	return group{name: "floods", runner: client, attempts: func() []attempt {
		return []attempt{
			{row: 29, name: "connects", want: reset, told: denied("no_endpoint"), try: func(in *intruder) string {
				for range 2000 {
					if got := connect(in.v4, portEcho); got != reset {
						return got
					}
				}
				return reset
			}},
			{row: 29, name: "half_open", want: quiet, told: denied("no_endpoint"), try: halfOpen},
			{row: 29, name: "then_allowed", want: data, told: told{reason: "allowed", verdict: "allow"}, try: func(in *intruder) string {
				return connectName(in.open, portEcho)
			}},
			{row: 29, name: "questions", want: "NXDOMAIN", told: told{reason: "undeclared_name", mode: "dns", host: "-"}, try: questions},
			{row: 29, name: "dns_servers", want: "EPERM", told: told{reason: "map_full", mode: "kernel", host: "-"}, try: manyServers},
			{row: 29, name: "udp", want: "EPERM", told: byHook("udp"), try: func(in *intruder) string {
				fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
				if err != nil {
					return word(err)
				}
				defer unix.Close(fd)
				to := sockaddr(netip.AddrPortFrom(in.v4, portEcho))
				for range 20000 {
					if err := unix.Sendto(fd, []byte(payload), 0, to); word(err) != "EPERM" {
						return word(err)
					}
				}
				return "EPERM"
			}},
		}
	}}
}

// halfOpen begins connections and looks at none of them.
func halfOpen(in *intruder) string {
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	to := sockaddr(netip.AddrPortFrom(in.v4, portEcho))
	for range 800 {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			break
		}
		fds = append(fds, fd)
		if got := word(unix.Connect(fd, to)); got != "EINPROGRESS" && got != ok {
			return got
		}
	}
	if len(fds) < 400 {
		return fmt.Sprint("only ", len(fds), " sockets")
	}
	return quiet
}

// questions asks for more names than are recorded one by one.
func questions(in *intruder) string {
	for i := range 1000 {
		if got := askFor("udp", foreignServer, fmt.Sprintf("n%d.%s", i, in.bad), dns.TypeA); got != "NXDOMAIN" {
			return got
		}
	}
	return askFor("udp", foreignServer, in.bad, dns.TypeA)
}

// manyServers asks more servers than there are slots to tell them apart.
func manyServers(in *intruder) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	query, err := question(in.bad, dns.TypeA).Pack()
	if err != nil {
		return word(err)
	}
	for i := range 400 {
		server := netip.AddrFrom4([4]byte{192, 0, 2 + byte(i/200), byte(i % 200)})
		if err := unix.Sendto(fd, query, 0, sockaddr(netip.AddrPortFrom(server, portDNS))); err != nil {
			return word(err)
		}
	}
	return ok
}
