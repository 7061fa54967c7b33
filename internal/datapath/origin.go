package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// taken is what the take_origin program returns on success.
const taken = 0

// Origins takes the origins of one sandbox, which its network namespace tells
// from those of others.
type Origins struct {
	dp          *Datapath
	netnsCookie uint64
}

// Origins returns the origins of the sandbox with this namespace cookie.
func (dp *Datapath) Origins(netnsCookie uint64) *Origins {
	return &Origins{dp: dp, netnsCookie: netnsCookie}
}

// Take returns the origin of an accepted connection by its remote address, and
// removes it: a second Take finds nothing. The exec record of the origin stays
// until DropExec. Returns ErrNotFound where no hook remembered the connection.
func (o *Origins) Take(remote netip.AddrPort) (flow.Origin, error) {
	origin, err := o.dp.takeOrigin(o.key(remote))
	if err != nil {
		return flow.Origin{}, fmt.Errorf("take origin of %v: %w", remote, err)
	}
	return originOf(&origin.Sock), nil
}

func originOf(sock *agentSockOrigin) flow.Origin {
	return flow.Origin{
		Exec:        execID(sock.Exec),
		Destination: netip.AddrPortFrom(address(sock.Destination), sock.Port),
		Proxy:       sock.Proxy != 0,
		UID:         sock.Uid,
	}
}

func (dp *Datapath) takeOrigin(key agentOriginKey) (agentOrigin, error) {
	args := agentTakeOriginArgs{Key: key}
	// One buffer goes in and comes out; bytes spare the library its reflection.
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&args)), int(unsafe.Sizeof(args)))
	ret, err := dp.objects.TakeOrigin.Run(&ebpf.RunOptions{Context: buf, ContextOut: buf})
	if err == nil && ret != taken {
		err = ErrNotFound
	}
	return args.Origin, err
}

// ExpireOrigins removes the origins that nobody took within maxAge, and returns
// how many. A connection that is never accepted would hold its origin, and by it
// its program's exec record, for ever.
func (dp *Datapath) ExpireOrigins(maxAge time.Duration) (int, error) {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return 0, fmt.Errorf("read boot time: %w", err)
	}
	oldest := uint64(max(0, boot.Nano()-maxAge.Nanoseconds()))
	var key agentOriginKey
	var value agentOrigin
	var expired []agentOriginKey
	entries := dp.objects.Origins.Iterate()
	for entries.Next(&key, &value) {
		if value.Time < oldest {
			expired = append(expired, key)
		}
	}
	// An iteration that others' changes cut short is gone on with the next time.
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return 0, fmt.Errorf("look for old origins: %w", err)
	}
	removed := 0
	for _, key := range expired {
		origin, err := dp.takeOrigin(key)
		if err != nil {
			continue // taken meanwhile
		}
		removed++
		if err := dp.DropExec(execID(origin.Sock.Exec)); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// Asker returns the exec that last asked the DNS listener from this address;
// zero where that is not known.
func (o *Origins) Asker(remote netip.AddrPort) flow.ExecID {
	var id agentExecId
	if err := o.dp.objects.DnsAskers.Lookup(o.key(remote), &id); err != nil {
		return flow.ExecID{}
	}
	return execID(id)
}

func (o *Origins) key(remote netip.AddrPort) agentOriginKey {
	return agentOriginKey{
		NetnsCookie: o.netnsCookie,
		Source:      kernelAddress(remote.Addr()),
		Port:        remote.Port(),
	}
}

// removeOrigins removes what nobody will take any more.
func (dp *Datapath) removeOrigins(sandbox uint64) error {
	var key agentOriginKey
	var value agentOrigin
	return sweep(dp.objects.Origins, &key, &value, func() bool { return value.Sock.Sandbox == sandbox })
}
