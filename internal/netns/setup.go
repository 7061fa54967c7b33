package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	localTable    = 255 // RT_TABLE_LOCAL
	reservedPorts = "/proc/sys/net/ipv4/ip_local_reserved_ports"
	lo6Disabled   = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"
)

// HasIPv6 reports whether the kernel speaks IPv6 at all (ipv6.disable=1 takes it
// away). Without it there is nothing to fence, and nothing to listen on.
func HasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// SetupLoopback brings lo up with addrs besides 127.0.0.1 and ::1, and makes
// every address of localRoutes local (AnyIP): a listener that is bound to the
// unspecified address, or bound free, answers on all of them.
//
// One address of each family that is no loopback address makes AI_ADDRCONFIG ask
// for both. IPv6 addresses are usable on return: none is left tentative. They are
// skipped where the kernel has no IPv6.
func (h *Handle) SetupLoopback(addrs, localRoutes []netip.Prefix) error {
	return h.Do(func() error { return setupLoopback(addrs, localRoutes) })
}

func setupLoopback(addrs, localRoutes []netip.Prefix) error {
	rt, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer rt.Close()
	lo, err := rt.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	v6 := HasIPv6()
	if v6 {
		// A host may switch IPv6 off for new devices; capture needs both families.
		if err := os.WriteFile(lo6Disabled, []byte("0"), 0); err != nil {
			return fmt.Errorf("enable IPv6 on lo: %w", err)
		}
	}
	if err := rt.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for _, p := range slices.Concat(localRoutes, ahead(addrs)) {
		if p.Addr().Is6() && !v6 {
			continue
		}
		route := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: ipNet(p), Table: localTable,
			Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		}
		if err := rt.RouteReplace(route); err != nil {
			return fmt.Errorf("add local route %s: %w", p, err)
		}
	}
	for _, p := range addrs {
		if p.Addr().Is6() && !v6 {
			continue
		}
		// A prefix route over lo would be a reject route.
		addr := &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}
		if err := rt.AddrAdd(lo, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add %s to lo: %w", p, err)
		}
	}
	return nil
}

// ahead returns the addresses that need a local route before they are added: the
// kernel makes an IPv6 address reachable a moment after it has added it, and until
// then answers to it have no way, and that is remembered.
func ahead(addrs []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(addrs), func(p netip.Prefix) bool { return p.Addr().Is4() })
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ReservePorts takes ports out of the kernel's choice for bind to port 0 and for
// connect, beside those that are out of it already. It does not stop a bind that
// names the port.
func (h *Handle) ReservePorts(ports ...uint16) error {
	return h.Do(func() error {
		// The file is that of the calling thread's namespace.
		text, err := os.ReadFile(reservedPorts)
		if err != nil {
			return fmt.Errorf("reserve ports: %w", err)
		}
		list := strings.FieldsFunc(strings.TrimSpace(string(text)), func(r rune) bool { return r == ',' })
		for _, p := range ports {
			list = append(list, strconv.Itoa(int(p)))
		}
		if err := os.WriteFile(reservedPorts, []byte(strings.Join(list, ",")), 0); err != nil {
			return fmt.Errorf("reserve ports: %w", err)
		}
		return nil
	})
}
