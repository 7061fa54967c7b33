package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultSocket is where the agent listens.
const DefaultSocket = "/run/ringfence/agent.sock"

// Bounds of connections. Root's do not count for the others', so that nobody keeps
// root out; strangers are those who may make no call and are told so.
const (
	maxConnections         = 1024
	maxConnectionsUID      = 128
	maxConnectionsStranger = 16
	strangerTime           = 5 * time.Second
)

// claimSocket makes the listening socket, and whatever of its directory is missing.
//
// A socket that somebody answers on is left alone, one that nobody does is
// replaced. Who decides so holds a lock beside it, for as long as it serves: two
// that start at once cannot both find it dead.
func claimSocket(path string, who *admission) (_ *net.UnixListener, lock *os.File, err error) {
	if err := prepareDir(filepath.Dir(path), who); err != nil {
		return nil, nil, err
	}
	lock, err = os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open lock of control socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil, inUse(path)
		}
		return nil, nil, fmt.Errorf("lock control socket: %w", err)
	}
	if err := RemoveStale(path); err != nil {
		return nil, nil, err
	}
	listener, err := listen(path, who)
	if err != nil {
		return nil, nil, fmt.Errorf("listen on control socket: %w", err)
	}
	return listener, lock, nil
}

func inUse(path string) error {
	return FailedPrecondition("stop it first (sudo systemctl stop ringfence), or give this one another socket",
		"another agent is serving on %s", path)
}

// prepareDir makes the directory, or looks whether it is one in which only root
// and the agent can put a socket.
func prepareDir(dir string, who *admission) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make directory of control socket: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at directory of control socket: %w", err)
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if !info.IsDir() || owner != 0 && owner != who.own || info.Mode().Perm()&0o022 != 0 {
		return FailedPrecondition("give the agent a directory of its own for its socket, such as "+filepath.Dir(DefaultSocket),
			"others than root can put a socket into %s", dir)
	}
	if who.alone() || info.Mode().Perm()&0o011 == 0o011 {
		return nil
	}
	// Others pass to the socket; what else is in it they cannot list.
	if err := os.Chmod(dir, info.Mode().Perm()|0o011); err != nil {
		return fmt.Errorf("open directory of control socket: %w", err)
	}
	return nil
}

// alone reports whether nobody is admitted but root and the agent's user.
func (a *admission) alone() bool { return len(a.uids) == 0 && len(a.gids) == 0 }

// RemoveStale removes a Unix socket on which nobody answers. One that is served, and
// what is no socket, is left alone and the error.
func RemoveStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return FailedPrecondition("remove it, or give the agent another path for its socket",
			"%s exists and is no socket", path)
	}
	switch conn, err := net.DialTimeout("unix", path, time.Second); {
	case err == nil:
		_ = conn.Close()
		return inUse(path)
	case !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("look whether an agent serves on %s: %w", path, err) // a full backlog is a living server's
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove socket of a dead agent: %w", err)
	}
	return nil
}

// listen makes the socket, with a mode as narrow as a mode can say: 0600; 0660
// where exactly one group is admitted; else 0666. Whoever gets through is looked
// at besides.
func listen(path string, who *admission) (*net.UnixListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		// The file gets the mode of the socket: no moment in which it has another.
		err := raw.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failed)
	}}
	made, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	listener := made.(*net.UnixListener)
	switch {
	case who.alone():
	case len(who.uids) == 0 && len(who.gids) == 1:
		err = errors.Join(os.Lchown(path, -1, int(who.gids[0])), os.Chmod(path, 0o660))
	default:
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	return listener, nil
}

// listener accepts connections within the bounds and knows whose they are. What is
// over a bound is closed before anything is read of it.
type listener struct {
	*net.UnixListener
	who *admission

	mu      sync.Mutex
	conns   map[*peerConn]struct{}
	count   map[string]int // of each class
	refused uint64
}

// class is the bound that a peer's connections count for.
func (p peerInfo) class() (string, int) {
	switch {
	case !p.admitted:
		return "strangers", maxConnectionsStranger
	case p.UID == 0:
		return "root", maxConnections
	}
	return fmt.Sprintf("uid %d", p.UID), maxConnectionsUID
}

const classOthers = "others"

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		info, err := l.who.look(conn)
		if err != nil {
			_ = conn.Close()
			continue // nobody knows who
		}
		if accepted := l.admit(conn, info); accepted != nil {
			return accepted, nil
		}
		_ = conn.Close()
	}
}

// admit counts a connection; nil where there are too many.
func (l *listener) admit(conn *net.UnixConn, info peerInfo) *peerConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	class, most := info.class()
	if l.count[class] >= most || class != "root" && l.count[classOthers] >= maxConnections {
		l.refused++
		return nil
	}
	accepted := &peerConn{UnixConn: conn, peer: info, listener: l}
	l.conns[accepted] = struct{}{}
	l.count[class]++
	if class != "root" {
		l.count[classOthers]++
	}
	if !info.admitted {
		accepted.timer = time.AfterFunc(strangerTime, accepted.drop)
	}
	return accepted
}

func (l *listener) forget(conn *peerConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.conns[conn]; !ok {
		return
	}
	delete(l.conns, conn)
	class, _ := conn.peer.class()
	if l.count[class]--; l.count[class] == 0 {
		delete(l.count, class)
	}
	if class != "root" {
		l.count[classOthers]--
	}
}

// closeWhere closes connections.
func (l *listener) closeWhere(chosen func(*peerConn) bool) {
	l.mu.Lock()
	var all []*peerConn
	for conn := range l.conns {
		if chosen(conn) {
			all = append(all, conn)
		}
	}
	l.mu.Unlock()
	for _, conn := range all {
		_ = conn.Close()
	}
}

// peerConn is a connection of which is known whose it is.
type peerConn struct {
	*net.UnixConn
	peer     peerInfo
	listener *listener
	timer    *time.Timer // of a stranger's
	greeted  atomic.Bool // both sides have said that they speak HTTP/2
}

// SetDeadline implements net.Conn. gRPC sets one for the handshake, and takes it
// away when that is over.
func (c *peerConn) SetDeadline(t time.Time) error {
	if t.IsZero() {
		c.greeted.Store(true)
	}
	return c.UnixConn.SetDeadline(t)
}

// Close implements net.Conn.
func (c *peerConn) Close() error {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.listener.forget(c)
	return c.UnixConn.Close()
}

// drop closes it when its time is over.
func (c *peerConn) drop() {
	c.listener.forget(c)
	_ = c.UnixConn.Close()
}
