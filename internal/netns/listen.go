package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenTCP listens inside the namespace. The listener works from any goroutine:
// a socket stays in the namespace in which it was made.
//
// An IPv6 listener takes IPv6 only. MPTCP, which Go would listen with by default,
// is off: a sandbox has none, and the original destination of such a socket is
// hidden from it.
func (h *Handle) ListenTCP(addr netip.AddrPort) (*net.TCPListener, error) {
	config := net.ListenConfig{Control: control(v6Only(addr)), KeepAlive: -1}
	config.SetMultipathTCP(false)
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = config.Listen(context.Background(), network("tcp", addr), addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in network namespace: %w", err)
	}
	return l.(*net.TCPListener), nil
}

// ListenUDP opens a UDP socket inside the namespace. It may send from addresses
// that no device has, so that an answer can leave from the address that was asked
// where that is local by a route only.
func (h *Handle) ListenUDP(addr netip.AddrPort) (*net.UDPConn, error) {
	free := option{unix.IPPROTO_IP, unix.IP_FREEBIND, 1}
	if addr.Addr().Is6() {
		free = option{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1}
	}
	config := net.ListenConfig{Control: control(append(v6Only(addr), free))}
	var c net.PacketConn
	err := h.Do(func() (err error) {
		c, err = config.ListenPacket(context.Background(), network("udp", addr), addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in network namespace: %w", err)
	}
	return c.(*net.UDPConn), nil
}

func network(proto string, addr netip.AddrPort) string {
	if addr.Addr().Is4() {
		return proto + "4"
	}
	return proto + "6"
}

// option is one socket option that is set before bind.
type option struct{ level, name, value int }

func v6Only(addr netip.AddrPort) []option {
	if addr.Addr().Is4() {
		return nil
	}
	return []option{{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1}}
}

func control(options []option) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			for _, o := range options {
				if err := unix.SetsockoptInt(int(fd), o.level, o.name, o.value); err != nil {
					failed = fmt.Errorf("set socket option %d/%d: %w", o.level, o.name, err)
					return
				}
			}
		})
		if err != nil {
			return err
		}
		return failed
	}
}
