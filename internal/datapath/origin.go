package datapath

import (
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"

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
	args := agentTakeOriginArgs{Key: o.key(remote)}
	// One buffer goes in and comes out; bytes spare the library its reflection.
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&args)), int(unsafe.Sizeof(args)))
	ret, err := o.dp.objects.TakeOrigin.Run(&ebpf.RunOptions{Context: buf, ContextOut: buf})
	if err != nil {
		return flow.Origin{}, fmt.Errorf("take origin of %v: %w", remote, err)
	}
	if ret != taken {
		return flow.Origin{}, fmt.Errorf("take origin of %v: %w", remote, ErrNotFound)
	}
	sock := &args.Origin.Sock
	return flow.Origin{
		Exec:        execID(sock.Exec),
		Destination: netip.AddrPortFrom(address(sock.Destination), sock.Port),
		Proxy:       sock.Proxy != 0,
		UID:         sock.Uid,
	}, nil
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
