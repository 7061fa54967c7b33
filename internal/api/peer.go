package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Peer is who is at the other end of a connection: as the kernel noted it when the
// connection was made, whoever holds it now.
type Peer struct {
	PID      int32 // in the agent's pid namespace; 0 from outside of it
	UID, GID uint32
}

const hintPeer = "use sudo, or have the agent's administrator admit your user or group in its configuration"

// PeerOf returns who makes a call, for records. It is false where the context is
// none of a call.
func PeerOf(ctx context.Context) (Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}, false
	}
	info, ok := p.AuthInfo.(peerInfo)
	return info.Peer, ok
}

// peerInfo is a Peer and whether it may make calls. The zero value may not.
type peerInfo struct {
	credentials.CommonAuthInfo
	Peer
	admitted bool
}

// AuthType implements credentials.AuthInfo.
func (peerInfo) AuthType() string { return "unix-peer" }

// admission is who may make calls: root, the agent's own user, and whom the
// configuration names.
type admission struct {
	own        uint32
	uids, gids []uint32
}

func (a *admission) admits(p Peer, fd int) bool {
	if p.UID == 0 || p.UID == a.own || slices.Contains(a.uids, p.UID) || slices.Contains(a.gids, p.GID) {
		return true
	}
	if len(a.gids) == 0 {
		return false
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return false // not known: not a member
	}
	return slices.ContainsFunc(groups, func(gid uint32) bool { return slices.Contains(a.gids, gid) })
}

// look returns who is at the other end of a connection.
func (a *admission) look(conn *net.UnixConn) (peerInfo, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return peerInfo{}, fmt.Errorf("read peer credentials: %w", err)
	}
	info := peerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if failed == nil {
			info.Peer = Peer{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
			info.admitted = a.admits(info.Peer, int(fd))
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return peerInfo{}, fmt.Errorf("read peer credentials: %w", err)
	}
	return info, nil
}

// peerGroups returns the supplementary groups of the peer. The kernel has them from
// 4.13 on, 65,536 at most.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(groups):
			groups = make([]uint32, size/4) // as many as there are: they do not change any more
		default:
			return nil, fmt.Errorf("read peer groups: %w", errno)
		}
	}
}

// transport is the handshake of a connection: the peer is known since it was
// accepted.
//
// One that is not admitted gets its connection, and PERMISSION_DENIED with a hint
// for every call on it; a bare close would look as if the agent were broken. It
// has few connections, and each for a short time (see listener).
type transport struct {
	credentials.TransportCredentials
}

var errNotAccepted = errors.New("not a connection of this server's")

// ServerHandshake implements credentials.TransportCredentials.
func (transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	accepted, ok := conn.(*peerConn)
	if !ok {
		return nil, nil, errNotAccepted
	}
	return conn, accepted.peer, nil
}

// Clone implements credentials.TransportCredentials.
func (t transport) Clone() credentials.TransportCredentials {
	return transport{t.TransportCredentials.Clone()}
}

// admitted reports whether the caller may make calls.
func admitted(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	info, ok := p.AuthInfo.(peerInfo)
	return ok && info.admitted
}
