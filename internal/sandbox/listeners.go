package sandbox

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/ringfence/ringfence/internal/netns"
)

// The ports of the agent's listeners inside a sandbox. Its network namespace is
// new, so nobody else can have them, and the hooks keep it that way.
const (
	capturePort = 15001
	dnsPort     = 15053
	proxyPort   = 15128
)

// ProxyURL is the explicit proxy as a program inside the sandbox names it: not by
// an address, or it would fail in a program that is told to use the other family.
const ProxyURL = "http://localhost:15128"

var (
	// ownAddresses make glibc's AI_ADDRCONFIG see both address families: it does
	// not count 127.0.0.1 and ::1.
	ownAddresses = []netip.Prefix{
		netip.MustParsePrefix("198.18.0.1/32"),
		netip.MustParsePrefix("fd52:696e:67fe:1::1/128"),
	}
	// slotRoutes make the IPv6 addresses local by which the hooks tell DNS servers
	// apart (SLOT_V6 in bpf/verdict.bpf.h). The IPv4 ones are local already.
	slotRoutes = []netip.Prefix{netip.MustParsePrefix("fd52:696e:67fe:53::/64")}
)

// Listeners are the agent's sockets inside a sandbox's network namespace, one
// for each address family.
type Listeners struct {
	Capture, Proxy []*net.TCPListener
	DNS            []*net.UDPConn
	DNSOverTCP     []net.Listener
}

// ports are those on which a sandbox is served, as its hooks know them.
type ports struct{ capture, dns, proxy uint16 }

func ownPorts() ports { return ports{capturePort, dnsPort, proxyPort} }

func (sb *Sandbox) listen(context.Context, Config) error {
	if err := sb.netns.ReservePorts(sb.ports.capture, sb.ports.dns, sb.ports.proxy); err != nil {
		return err
	}
	return sb.openListeners()
}

func (sb *Sandbox) openListeners() error {
	sb.onEnd(sb.listeners.close, sb.listeners.close)
	loopbacks := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	wildcards := []netip.Addr{netip.IPv4Unspecified()}
	if netns.HasIPv6() {
		loopbacks = append(loopbacks, netip.IPv6Loopback())
		wildcards = append(wildcards, netip.IPv6Unspecified())
	}
	for _, addr := range loopbacks {
		capture, err := sb.netns.ListenTCP(netip.AddrPortFrom(addr, sb.ports.capture))
		if err != nil {
			return err
		}
		sb.listeners.Capture = append(sb.listeners.Capture, capture)
		proxy, err := sb.netns.ListenTCP(netip.AddrPortFrom(addr, sb.ports.proxy))
		if err != nil {
			return err
		}
		sb.listeners.Proxy = append(sb.listeners.Proxy, proxy)
		overTCP, err := sb.netns.ListenTCP(netip.AddrPortFrom(addr, sb.ports.dns))
		if err != nil {
			return err
		}
		sb.listeners.DNSOverTCP = append(sb.listeners.DNSOverTCP, overTCP)
	}
	// DNS over UDP is asked at the address of a slot, so at any local address.
	for _, addr := range wildcards {
		conn, err := sb.netns.ListenUDP(netip.AddrPortFrom(addr, sb.ports.dns))
		if err != nil {
			return err
		}
		sb.listeners.DNS = append(sb.listeners.DNS, conn)
	}
	return nil
}

// close closes what its user has not closed yet.
func (l *Listeners) close() error {
	var errs []error
	closed := func(err error) {
		if !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for i := range l.Capture {
		closed(l.Capture[i].Close())
	}
	for i := range l.Proxy {
		closed(l.Proxy[i].Close())
	}
	for i := range l.DNS {
		closed(l.DNS[i].Close())
	}
	for i := range l.DNSOverTCP {
		closed(l.DNSOverTCP[i].Close())
	}
	return errors.Join(errs...)
}
