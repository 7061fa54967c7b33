package testenv

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenPacket listens for UDP on every address in the internet namespace, so
// that the answer to a datagram can be sent from the address it was sent to.
func (e *Env) listenPacket(port int) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var set error
		err := raw.Control(func(fd uintptr) {
			// The socket is a dual-stack one: these options cover IPv4 too. The
			// second allows sources that are local by a route alone.
			set = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1),
			)
		})
		return errors.Join(err, set)
	}}
	var conn net.PacketConn
	err := e.internet.Do(func() error {
		var err error
		conn, err = config.ListenPacket(e.ctx, "udp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on UDP port %d: %w", port, err)
	}
	return conn.(*net.UDPConn), nil
}

// echoUDP sends each datagram back, from the address it was sent to, until the
// socket is closed.
func echoUDP(conn *net.UDPConn) {
	data, control := make([]byte, 64<<10), make([]byte, 256)
	for {
		n, nc, _, peer, err := conn.ReadMsgUDPAddrPort(data, control)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			// A lost answer is what UDP clients are prepared for.
			_, _, _ = conn.WriteMsgUDPAddrPort(data[:n], answerFrom(control[:nc]), peer)
		}
	}
}

// answerFrom turns the control message that names a datagram's destination into
// one that sets the source of the answer. Nil leaves the choice to the kernel.
func answerFrom(control []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if m.Header.Level != unix.IPPROTO_IPV6 || m.Header.Type != unix.IPV6_PKTINFO || len(m.Data) < 16 {
			continue
		}
		var info unix.Inet6Pktinfo
		copy(info.Addr[:], m.Data) // the interface stays open
		return unix.PktInfo6(&info)
	}
	return nil
}
