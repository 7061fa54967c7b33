package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dialTimeout bounds a dial whose context does not.
	dialTimeout = 10 * time.Second
	// maxDials bounds the dials of a sandbox that go on at the same time.
	maxDials = 64
	// dialerIdle is how long a dialing process waits for the next order.
	dialerIdle = 30 * time.Second
)

// DialConfig says where to connect to, inside a sandbox and as one of its users.
type DialConfig struct {
	UID, GID uint32
	Groups   []uint32

	// Network is "tcp" or "unix".
	Network string
	// Address is localhost, an IP address of the sandbox's own (its loopback, or one
	// of Own), or for "unix" an absolute path as the user sees it.
	Address string
	Port    uint16 // of tcp

	// Own are the addresses of the sandbox's interface. The hooks capture connections
	// to them, as all but the loopback: so they stand for the loopback of their family.
	Own []netip.Addr
	// Refused are the ports of the agent's listeners in the sandbox.
	Refused []uint16
}

// dialOrder is what the agent tells sandbox-dial, with the socket to answer on.
// Targets are tried in turn.
type dialOrder struct {
	Targets []netip.AddrPort `json:"targets,omitempty"`
	Path    []byte           `json:"path,omitempty"` // need not be UTF-8
	Refused []uint16         `json:"refused"`
	Idle    time.Duration    `json:"idle,omitempty"` // how long to wait for the next order; 0 is dialerIdle
}

// dnsPort is the agent's on every address: the hooks lead it to the sandbox's DNS.
const dnsPort = 53

// maxSocketPath is what the kernel takes, without the zero at its end.
const maxSocketPath = 107

func (c *DialConfig) order() (*dialOrder, error) {
	if c.UID == 0 {
		return nil, ErrRoot
	}
	order := &dialOrder{Refused: c.Refused}
	switch c.Network {
	case "tcp":
		addrs, err := c.addresses()
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			order.Targets = append(order.Targets, netip.AddrPortFrom(addr, c.Port))
		}
	case "unix":
		order.Path = []byte(c.Address)
	default:
		return nil, fmt.Errorf("network %q: %w", c.Network, ErrNotOwn)
	}
	return order, order.check()
}

func (c *DialConfig) addresses() ([]netip.Addr, error) {
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	if c.Address == "localhost" {
		return []netip.Addr{v4, v6}, nil
	}
	addr, err := netip.ParseAddr(c.Address)
	if err != nil || addr.Zone() != "" {
		return nil, fmt.Errorf("address %q: %w", c.Address, ErrNotOwn)
	}
	addr = addr.Unmap()
	switch {
	case !slices.Contains(c.Own, addr):
		return []netip.Addr{addr}, nil
	case addr.Is4():
		return []netip.Addr{v4}, nil
	}
	return []netip.Addr{v6}, nil
}

// check is done by the agent before anything is started, and again by the helper.
func (o *dialOrder) check() error {
	if (len(o.Targets) == 0) == (len(o.Path) == 0) {
		return fmt.Errorf("no address, or two: %w", ErrNotOwn)
	}
	for _, t := range o.Targets {
		switch {
		case !t.Addr().IsLoopback() || t.Addr().Is4In6() || t.Addr().Zone() != "":
			return fmt.Errorf("address %s is not the sandbox's loopback: %w", t.Addr(), ErrNotOwn)
		case t.Port() == 0 || t.Port() == dnsPort || slices.Contains(o.Refused, t.Port()):
			return fmt.Errorf("port %d is not the sandbox's: %w", t.Port(), ErrNotOwn)
		}
	}
	p := string(o.Path)
	if p != "" && (!path.IsAbs(p) || len(p) > maxSocketPath || strings.ContainsRune(p, 0)) {
		return fmt.Errorf("socket path %q is not absolute, or too long: %w", p, ErrNotOwn)
	}
	return nil
}

// Dial connects to what listens in the sandbox: a process in its namespaces and its
// cgroup, as its user, makes the connection and hands it over, so it is to the hooks
// as if the user had made it. It returns a *net.TCPConn or a *net.UnixConn.
//
// ErrNotOwn refuses everything but the sandbox's own loopback and socket files before
// anything is started. An error of the connection itself is a *StepError with its
// errno in it.
func (n *Namespaces) Dial(ctx context.Context, config DialConfig) (net.Conn, error) {
	order, err := config.order()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for {
		d, old, err := n.dialer(ctx, &config)
		if err != nil {
			return nil, err
		}
		conn, err := d.dial(ctx, order)
		if errors.Is(err, errDialerEnded) && old && ctx.Err() == nil {
			select { // it had nothing to do for too long, just now
			case <-d.process.child.ended:
			case <-ctx.Done():
			}
			continue
		}
		return conn, err
	}
}

var errDialerEnded = errors.New("the dialing process has ended")

// dialers are the dialing processes of a sandbox, one for each user. Each serves
// until it has had nothing to do for a while: to start one takes as long as many dials.
type dialers struct {
	starting chan struct{} // holds one token while one is looked up or started
	byUser   map[string]*dialer
}

type dialer struct {
	process *Process
	conn    *net.UnixConn
	room    chan struct{} // a token for each dial that goes on
}

// dialer returns the user's, and whether it was there before.
func (n *Namespaces) dialer(ctx context.Context, c *DialConfig) (_ *dialer, old bool, err error) {
	n.mu.Lock()
	if n.dialers.starting == nil {
		n.dialers.starting = make(chan struct{}, 1)
		n.dialers.byUser = make(map[string]*dialer)
	}
	starting := n.dialers.starting
	n.mu.Unlock()
	select {
	case starting <- struct{}{}:
		defer func() { <-starting }()
	case <-ctx.Done():
		return nil, false, fmt.Errorf("dial: %w", context.Cause(ctx))
	}
	user := fmt.Sprint(c.UID, c.GID, c.Groups)
	if d := n.dialers.byUser[user]; d != nil {
		select {
		case <-d.process.child.ended:
			delete(n.dialers.byUser, user)
		default:
			return d, true, nil
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, false, err
	}
	defer null.Close()
	p, err := n.Exec(ctx, Command{
		Builtin: builtinDial, Dir: "/", UID: c.UID, GID: c.GID, Groups: c.Groups, Stdio: [3]*os.File{null, null, null},
	})
	if err != nil {
		return nil, false, err
	}
	d := &dialer{process: p, conn: p.control, room: make(chan struct{}, maxDials)}
	n.dialers.byUser[user] = d
	return d, false, nil
}

func (d *dialer) dial(ctx context.Context, order *dialOrder) (net.Conn, error) {
	select {
	case d.room <- struct{}{}:
		defer func() { <-d.room }()
	case <-ctx.Done():
		return nil, fmt.Errorf("dial: %w", context.Cause(ctx))
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	err = sendOrder(d.conn, order, theirs)
	_ = theirs.Close()
	if err != nil {
		return nil, errors.Join(errDialerEnded, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = ours.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	files, err := receiveReply(ours, 1)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("dial: %w", context.Cause(ctx))
	case errors.Is(err, io.EOF):
		return nil, errDialerEnded
	case err != nil:
		return nil, err
	}
	return order.accept(files[0])
}

// accept takes the connection that came, which the helper may have been made to send
// by another process of its user: it is a stream to what was asked for, or refused.
func (o *dialOrder) accept(f *os.File) (net.Conn, error) {
	defer f.Close()
	if err := o.verify(int(f.Fd())); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("take connection: %w", err)
	}
	return conn, nil
}

func (o *dialOrder) verify(fd int) error {
	domain, domainErr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	kind, kindErr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	peer, peerErr := unix.Getpeername(fd)
	if err := errors.Join(domainErr, kindErr, peerErr); err != nil {
		return fmt.Errorf("take connection: %w", err)
	}
	if kind != unix.SOCK_STREAM {
		return fmt.Errorf("take connection: its type is %d: %w", kind, ErrNotOwn)
	}
	var to netip.AddrPort
	switch peer := peer.(type) {
	case *unix.SockaddrInet4:
		to = netip.AddrPortFrom(netip.AddrFrom4(peer.Addr), uint16(peer.Port))
	case *unix.SockaddrInet6:
		to = netip.AddrPortFrom(netip.AddrFrom16(peer.Addr), uint16(peer.Port))
	case *unix.SockaddrUnix:
		if domain == unix.AF_UNIX && len(o.Path) > 0 {
			return nil // the name of a peer is what it bound, by whatever path
		}
	}
	if !slices.Contains(o.Targets, to) {
		return fmt.Errorf("take connection: it goes elsewhere: %w", ErrNotOwn)
	}
	return nil
}
