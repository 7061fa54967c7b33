package testenv

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Flow is all that arrived in the internet namespace with one protocol, source
// and destination.
type Flow struct {
	EtherType   uint16 // unix.ETH_P_IP, ETH_P_IPV6 or what else came
	Protocol    uint8  // unix.IPPROTO_TCP … ; 0 where it is no IP
	Source      netip.AddrPort
	Destination netip.AddrPort // port 0 where the protocol has none
	Packets     int
	Payload     []byte // the first bytes of the first packet that had any
}

// String returns "tcp 203.0.113.1:40000 > 198.51.100.1:443 (3 packets)".
func (f Flow) String() string {
	protocol := fmt.Sprintf("ethertype %#x", f.EtherType)
	switch {
	case f.Protocol == unix.IPPROTO_TCP:
		protocol = "tcp"
	case f.Protocol == unix.IPPROTO_UDP:
		protocol = "udp"
	case f.Destination.IsValid():
		protocol = fmt.Sprintf("protocol %d", f.Protocol)
	}
	return fmt.Sprintf("%s %v > %v (%d packets)", protocol, f.Source, f.Destination, f.Packets)
}

// To matches the flows to an address, whatever the protocol.
func To(addr netip.Addr) func(Flow) bool {
	return func(f Flow) bool { return f.Destination.Addr() == addr }
}

// ToPort matches the flows to a port of an address.
func ToPort(destination netip.AddrPort) func(Flow) bool {
	return func(f Flow) bool { return f.Destination == destination }
}

// snapLength is how much of a packet the witness reads, payloadLength how much
// of a payload it keeps, queueLength how many bytes may wait: the kernel counts a
// packet in full, up to 64 KiB, however little is read of it.
const (
	snapLength    = 192
	payloadLength = 64
	queueLength   = 128 << 20
)

// witness reads every packet that arrives on the internet's link. The kernel's
// queue is emptied by a goroutine, and by whoever asks: so an answer counts
// everything that arrived before the question.
type witness struct {
	file *os.File // a non-blocking packet socket

	mu    sync.Mutex
	flows map[flowKey]*Flow // at most maxLog
	order []*Flow           // as they came
	lost  uint64
	buf   [snapLength]byte
}

type flowKey struct {
	etherType           uint16
	protocol            uint8
	source, destination netip.AddrPort
}

func (e *Env) startWitness() error {
	w := &witness{flows: make(map[flowKey]*Flow)}
	err := e.internet.Do(func() error {
		var err error
		w.file, err = packetSocket()
		return err
	})
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	raw, err := w.file.SyscallConn()
	if err != nil {
		return errors.Join(fmt.Errorf("open packet socket: %w", err), w.file.Close())
	}
	e.witness = w
	e.wg.Go(func() {
		// The callback never says that it is done, so this ends with Close.
		_ = raw.Read(func(uintptr) bool { w.drain(); return false })
	})
	e.atClose(w.file.Close)
	return nil
}

// packetSocket returns a packet socket for all protocols of the namespace's
// links, without what the namespace itself sends.
func packetSocket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "witness")
	// Filter first, bind last: nothing is queued unfiltered.
	const skfAdPkttype = uint32(0xfffff000) + 4 // SKF_AD_OFF + SKF_AD_PKTTYPE
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: skfAdPkttype},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: unix.PACKET_OUTGOING},
		{Code: unix.BPF_RET | unix.BPF_K, K: snapLength},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueLength),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)}),
	)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// drain reads until the kernel's queue is empty.
func (w *witness) drain() {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// Control does not wait, and fails once the file is closed.
	_ = raw.Control(func(fd uintptr) {
		for {
			n, from, err := unix.Recvfrom(int(fd), w.buf[:], unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				break
			}
			if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Hatype != unix.ARPHRD_LOOPBACK {
				w.record(parsePacket(networkOrder(link.Protocol), w.buf[:n]))
			}
		}
		// Reading the statistics resets them.
		if stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			w.lost += uint64(stats.Drops)
		}
	})
}

// record counts a packet in its flow.
func (w *witness) record(p Flow) {
	if isLinkChatter(p) {
		return
	}
	key := flowKey{p.EtherType, p.Protocol, p.Source, p.Destination}
	flow := w.flows[key]
	if flow == nil {
		if len(w.flows) >= maxLog {
			w.lost++
			return
		}
		flow = &Flow{EtherType: p.EtherType, Protocol: p.Protocol, Source: p.Source, Destination: p.Destination}
		w.flows[key] = flow
		w.order = append(w.order, flow)
	}
	flow.Packets++
	if len(flow.Payload) == 0 && len(p.Payload) > 0 {
		flow.Payload = slices.Clone(p.Payload[:min(len(p.Payload), payloadLength)])
	}
}

// ErrWitnessLost says that packets went by unseen, so that nothing can be said
// about what did not arrive.
var ErrWitnessLost = errors.New("witness lost packets")

// Flows returns what arrived in the internet namespace so far, oldest first. The
// error is ErrWitnessLost where that is not all.
func (e *Env) Flows() ([]Flow, error) { return e.flows(false) }

// TakeFlows is Flows, and forgets what it returns, so that a long test can see more
// flows than the witness keeps. A flow that goes on is one again.
func (e *Env) TakeFlows() ([]Flow, error) { return e.flows(true) }

func (e *Env) flows(forget bool) ([]Flow, error) {
	w := e.witness
	if w == nil {
		return nil, errors.New("read witness: this Env has none")
	}
	w.drain()
	w.mu.Lock()
	defer w.mu.Unlock()
	flows := make([]Flow, len(w.order))
	for i, flow := range w.order {
		flows[i] = *flow
	}
	if forget {
		clear(w.flows)
		w.order = nil
	}
	if w.lost > 0 {
		return flows, fmt.Errorf("%w: %d", ErrWitnessLost, w.lost)
	}
	return flows, nil
}

// Arrived returns the flows that match.
func (e *Env) Arrived(match func(Flow) bool) ([]Flow, error) {
	flows, err := e.Flows()
	return slices.DeleteFunc(flows, func(f Flow) bool { return !match(f) }), err
}

// NothingArrived fails the test when a flow matches, or when the witness cannot
// be sure.
func (e *Env) NothingArrived(tb testing.TB, match func(Flow) bool) {
	tb.Helper()
	flows, err := e.Arrived(match)
	if err != nil {
		tb.Errorf("read witness: %v", err)
	}
	for _, flow := range flows {
		tb.Errorf("arrived in the internet: %v, %q", flow, flow.Payload)
	}
}
