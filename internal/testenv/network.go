package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/netns"
)

// The ends of the veth pair, named alike in every Env: names are per namespace.
const (
	hostLink     = "uplink"
	internetLink = "downlink"
)

// The addresses of the internet's end, through which the host reaches all others.
const (
	gatewayIPv4 = "203.0.113.2"
	gatewayIPv6 = "2001:db8:1::2"
)

func (e *Env) startNetwork() error {
	for _, ns := range []**netns.Handle{&e.host, &e.internet} {
		handle, err := netns.New()
		if err != nil {
			return fmt.Errorf("make namespace: %w", err)
		}
		*ns = handle
		e.atClose(handle.Close)
	}
	if err := e.host.Do(func() error { return setUpHost(e.internet) }); err != nil {
		return fmt.Errorf("set up host namespace: %w", err)
	}
	if err := e.internet.Do(setUpInternet); err != nil {
		return fmt.Errorf("set up internet namespace: %w", err)
	}
	// Each end has a carrier once both are up, and a little later a way for IPv6.
	return errors.Join(
		e.host.Do(func() error { return awaitUp(hostLink) }),
		e.internet.Do(func() error { return awaitUp(internetLink) }),
	)
}

// setUpHost makes the pair, and the host's end of it. Without link-local addresses
// and duplicate address detection nothing has to be waited for. Neighbour
// discovery answers for assigned addresses only, so IPv6 has no on-link prefix:
// all of it goes through the one neighbour.
func setUpHost(internet *netns.Handle) error {
	if err := addPair(internet); err != nil {
		return err
	}
	link, err := raise(hostLink, HostIPv4+"/24", HostIPv6+"/128")
	if err != nil {
		return err
	}
	return addRoutes(link,
		netlink.Route{Dst: hostRoute(gatewayIPv6), Scope: netlink.SCOPE_LINK},
		netlink.Route{Gw: net.ParseIP(gatewayIPv4)},
		netlink.Route{Gw: net.ParseIP(gatewayIPv6)},
	)
}

// setUpInternet makes every address but the host's local. The routes stand in the
// main table: in the local table they would shadow those to the host.
func setUpInternet() error {
	link, err := raise(internetLink, gatewayIPv4+"/32", gatewayIPv6+"/128")
	if err != nil {
		return err
	}
	err = addRoutes(link,
		netlink.Route{Dst: hostRoute(HostIPv4), Scope: netlink.SCOPE_LINK},
		netlink.Route{Dst: hostRoute(HostIPv6), Scope: netlink.SCOPE_LINK})
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	local := func(all string) netlink.Route {
		return netlink.Route{
			Dst:  network(netip.MustParsePrefix(all)),
			Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_MAIN, Scope: netlink.SCOPE_HOST,
		}
	}
	return addRoutes(lo, local("0.0.0.0/0"), local("::/0"))
}

// addPair makes the veth pair, its peer in the other namespace.
func addPair(internet *netns.Handle) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = hostLink
	err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs,
		PeerName:  internetLink, PeerNamespace: netlink.NsFd(internet.File().Fd()),
	})
	if err != nil {
		return fmt.Errorf("make veth pair: %w", err)
	}
	return nil
}

// raise brings lo and a link up, with addresses that are usable at once.
func raise(name string, addrs ...string) (netlink.Link, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find lo: %w", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return nil, fmt.Errorf("set lo up: %w", err)
	}
	const none = 1 // IN6_ADDR_GEN_MODE_NONE
	if err := netlink.LinkSetIP6AddrGenMode(link, none); err != nil {
		return nil, fmt.Errorf("do without link-local addresses on %s: %w", name, err)
	}
	for _, text := range addrs {
		prefix := netip.MustParsePrefix(text)
		addr := &netlink.Addr{IPNet: network(prefix)}
		if prefix.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return nil, fmt.Errorf("add %s to %s: %w", text, name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", name, err)
	}
	return link, nil
}

// awaitUp waits until the kernel has taken notice of a link's carrier.
func awaitUp(name string) error {
	for deadline := time.Now().Add(settleTime); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: it is %v", name, link.Attrs().OperState)
		}
	}
}

func addRoutes(link netlink.Link, routes ...netlink.Route) error {
	for _, route := range routes {
		route.LinkIndex = link.Attrs().Index
		if err := netlink.RouteAdd(&route); err != nil {
			return fmt.Errorf("add route %v: %w", route, err)
		}
	}
	return nil
}

// hostRoute is the destination that one address is.
func hostRoute(text string) *net.IPNet {
	addr := netip.MustParseAddr(text)
	return network(netip.PrefixFrom(addr, addr.BitLen()))
}

func network(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}
}
