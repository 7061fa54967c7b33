package sshd

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// source is where a connection comes from, as far as it is told apart: an IPv4
// address, the network of an IPv6 address (whoever has one address of it has them
// all), or a user of this host at the Unix socket. The zero value is an unknown one,
// which all that are unknown share.
type source struct {
	network netip.Prefix
	uid     uint32
	local   bool
}

// sourceOf returns the source of a connection.
func sourceOf(conn net.Conn) source {
	switch c := conn.(type) {
	case *net.UnixConn:
		uid, err := peerUID(c)
		if err != nil {
			return source{}
		}
		return source{uid: uid, local: true}
	default:
		remote, ok := conn.RemoteAddr().(*net.TCPAddr)
		if !ok {
			return source{}
		}
		return sourceOfAddr(remote.AddrPort().Addr())
	}
}

func sourceOfAddr(addr netip.Addr) source {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return source{}
	}
	return source{network: network}
}

func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, fmt.Errorf("read peer: %w", failed)
	}
	return peer.Uid, nil
}

// String returns the source for a log.
func (s source) String() string {
	switch {
	case s.local:
		return fmt.Sprintf("uid %d", s.uid)
	case !s.network.IsValid():
		return "unknown"
	case s.network.IsSingleIP():
		return s.network.Addr().String()
	}
	return s.network.String()
}

// addressOf returns the address of a connection for a record: with no port where it
// comes by the Unix socket.
func addressOf(conn net.Conn, from source) string {
	if from.local || !from.network.IsValid() {
		return from.String()
	}
	if remote, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return remote.AddrPort().Addr().Unmap().String()
	}
	return from.String()
}
