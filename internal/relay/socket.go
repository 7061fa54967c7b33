package relay

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// keepAlive makes the connections that l accepts find a dead peer within four
// minutes. They inherit it, which costs nothing on each; a listener that is
// made with net.ListenConfig{KeepAlive: -1} keeps Go from setting its own, which
// are four system calls a connection.
func keepAlive(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("set keepalive: %w", err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for _, o := range []struct{ level, option, value int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 120},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 30},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
		} {
			if failed = unix.SetsockoptInt(int(fd), o.level, o.option, o.value); failed != nil {
				return
			}
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("set keepalive: %w", err)
	}
	return nil
}

// remoteAddr returns the canonical address of the peer.
func remoteAddr(conn *net.TCPConn) netip.Addr {
	addr, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return addr.AddrPort().Addr().Unmap()
}
