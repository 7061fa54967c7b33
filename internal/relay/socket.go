package relay

import (
	"net"
	"net/netip"
	"time"
)

// keepAlive finds a dead peer within four minutes. The default would send a
// packet every 15 s on each of thousands of idle connections.
func keepAlive(conn *net.TCPConn) {
	// An error means that the connection is over, which its next use tells.
	conn.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: 2 * time.Minute, Interval: 30 * time.Second, Count: 4,
	})
}

// remoteAddr returns the canonical address of the peer.
func remoteAddr(conn *net.TCPConn) netip.Addr {
	addr, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return addr.AddrPort().Addr().Unmap()
}
