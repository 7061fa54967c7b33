package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An anchor is a Unix socket by which a sandbox is found again. Its init outlives
// the agent, holds the namespaces, and hands them to whoever connects as root.
//
// Bind mounts of the namespaces would do a part of that. But they outlive init, so
// that they must be found and unmounted; they need a mount namespace that is
// shared with the next agent; and a ruleset of Landlock cannot be mounted. A socket
// without its init refuses the connection, and that is the whole look at whether
// the sandbox lives.

// Names of the descriptors that init hands over. Those of namespaces are what
// /proc/self/ns calls them.
const (
	mountFile   = "mnt"
	pidFile     = "pid"
	ipcFile     = "ipc"
	utsFile     = "uts"
	netFile     = "net"
	rootFile    = "root"
	rulesetFile = "ruleset" // of Landlock
	memoryFile  = "memory"  // what the agent wants back, see Config.Memory
)

const (
	anchorBacklog = 16
	// anchorTimeout bounds each word on an anchor, on both sides.
	anchorTimeout = 5 * time.Second
	acceptPause   = 10 * time.Millisecond
)

// anchorOrder is what an agent says on an anchor. There is one thing to ask for.
type anchorOrder struct {
	Ask string `json:"ask"`
}

const askHandOver = "hand over"

// bindAnchor makes the socket at a path, which must be in a directory of root's
// alone. It is init that listens, so the kernel tells init's pid to who connects.
func bindAnchor(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("bind anchor: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open anchor: %w", err)
	}
	file := os.NewFile(uintptr(fd), path)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("bind anchor %s: %w", path, err)
	}
	return file, nil
}

// listen opens the anchor for the next agent, once init is nothing but what it says
// it is.
func (in *initProcess) listen() error {
	if !in.order.Anchored {
		return nil
	}
	return unix.Listen(in.anchor, anchorBacklog)
}

// answer hands over to one agent after the other.
func (in *initProcess) answer() {
	for {
		conn, _, err := unix.Accept4(in.anchor, unix.SOCK_CLOEXEC)
		if err != nil {
			if err != unix.EINTR {
				<-time.After(acceptPause) // no descriptor is free, or no memory
			}
			continue
		}
		_ = in.handOver(conn) // who asked finds out
		_ = unix.Close(conn)
	}
}

func (in *initProcess) handOver(conn int) error {
	peer, err := unix.GetsockoptUcred(conn, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || peer.Uid != 0 {
		return errors.Join(ErrForeign, err)
	}
	limit := unix.NsecToTimeval(anchorTimeout.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, option, &limit); err != nil {
			return err
		}
	}
	var buf [256]byte
	n, _, _, err := recvmsg(conn, buf[:], nil)
	if err != nil {
		return err
	}
	var order anchorOrder
	if err := json.Unmarshal(buf[:n], &order); err != nil || order.Ask != askHandOver {
		return errors.Join(sendReplyOn(conn, reply{Fault: &fault{Step: "hand over", Text: []byte("unknown order"), Code: ExitRingfence}}), err)
	}
	return in.hand(conn)
}

// handed is what came from an init, and which process that was.
type handed struct {
	reply *reply
	files map[string]*os.File
	init  *adoptedInit
}

// reach connects to an anchor and takes what its init hands over. ErrGone means
// that there is no init; ErrForeign that what answered is none.
func reach(ctx context.Context, anchor string) (_ *handed, err error) {
	dialer := net.Dialer{Timeout: anchorTimeout, Control: passCredentials}
	c, err := dialer.DialContext(ctx, "unixpacket", anchor)
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(ErrGone, err)
		}
		return nil, fmt.Errorf("reach init: %w", err)
	}
	defer c.Close()
	conn := c.(*net.UnixConn)
	if err := conn.SetDeadline(time.Now().Add(anchorTimeout)); err != nil {
		return nil, err
	}
	h := &handed{}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	// Held before anything is asked: what answers afterwards is this process.
	if h.init, err = listenerOf(conn); err != nil {
		return nil, err
	}
	text, err := json.Marshal(anchorOrder{Ask: askHandOver})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(text); err != nil {
		return nil, fmt.Errorf("ask init: %w", errors.Join(ErrGone, err))
	}
	r, files, sender, err := receiveFrom(conn)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			err = errors.Join(ErrGone, err)
		}
		return nil, fmt.Errorf("ask init: %w", err)
	}
	h.reply = r
	if h.files, err = r.named(files); err != nil {
		return nil, err
	}
	if sender == nil || int(sender.Pid) != h.init.process || sender.Uid != initUID {
		return nil, fmt.Errorf("ask init: %w: another process answered than listens", ErrForeign)
	}
	if h.init.hasEnded() { // its pid may be another's by now
		return nil, fmt.Errorf("ask init: %w", ErrGone)
	}
	return h, nil
}

// passCredentials has the kernel say who sends.
func passCredentials(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	})
	return errors.Join(err, failed)
}

// listenerOf holds the process that listens on the other end of a connection.
func listenerOf(conn *net.UnixConn) (*adoptedInit, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("ask who listens: %w", err)
	}
	if peer.Uid != initUID || peer.Pid <= 0 {
		return nil, fmt.Errorf("ask who listens: %w: user %d, process %d", ErrForeign, peer.Uid, peer.Pid)
	}
	return holdInit(int(peer.Pid))
}

// named returns files by the names that the reply gives them.
func (r *reply) named(files []*os.File) (map[string]*os.File, error) {
	if len(files) != len(r.Files) {
		closeAll(files)
		return nil, fmt.Errorf("receive reply: %d descriptors instead of %d", len(files), len(r.Files))
	}
	named := make(map[string]*os.File, len(files))
	for i, name := range r.Files {
		if named[name] != nil {
			_ = files[i].Close()
			continue
		}
		named[name] = files[i]
	}
	return named, nil
}

// take returns a file, which is the caller's then; nil where there is none.
func (h *handed) take(name string) *os.File {
	file := h.files[name]
	delete(h.files, name)
	return file
}

// close closes what was not taken.
func (h *handed) close() {
	for _, file := range h.files {
		_ = file.Close()
	}
	if h.init != nil {
		h.init.leave()
	}
}
