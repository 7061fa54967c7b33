package datapath

import (
	"encoding/binary"
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
)

// address returns the canonical form of a kernel address: an IPv4 address is
// never v4-mapped.
func address(a agentAddress) netip.Addr {
	var b [16]byte
	for i, word := range a.Words {
		binary.NativeEndian.PutUint32(b[i*4:], word)
	}
	return netip.AddrFrom16(b).Unmap()
}

func kernelAddress(a netip.Addr) agentAddress {
	var out agentAddress
	b := a.As16()
	for i := range out.Words {
		out.Words[i] = binary.NativeEndian.Uint32(b[i*4:])
	}
	return out
}

func execID(id agentExecId) flow.ExecID { return flow.ExecID{TGID: id.Tgid, Time: id.Time} }

func kernelExecID(id flow.ExecID) agentExecId { return agentExecId{Tgid: id.TGID, Time: id.Time} }

func fileID(f agentFileId) flow.FileID {
	return flow.FileID{
		Device: f.Device, Inode: f.Inode, Size: f.Size,
		CtimeSec: f.CtimeSec, CtimeNsec: f.CtimeNsec,
		FSMagic: f.FsMagic, Granularity: f.FsGranularity,
	}
}

var reasons = [agentRejectREJECT_MAX]flow.Reason{
	agentRejectREJECT_UNKNOWN_SANDBOX: flow.ReasonUnknownSandbox,
	agentRejectREJECT_FOREIGN_NETNS:   flow.ReasonForeignNetns,
	agentRejectREJECT_NO_IDENTITY:     flow.ReasonNoIdentity,
	agentRejectREJECT_SOCKET_TYPE:     flow.ReasonSocketType,
	agentRejectREJECT_ADDRESS_FAMILY:  flow.ReasonAddressFamily,
	agentRejectREJECT_UDP:             flow.ReasonUDP,
	agentRejectREJECT_UDP_CONNECT:     flow.ReasonUDPConnect,
	agentRejectREJECT_RESERVED_PORT:   flow.ReasonReservedPort,
	agentRejectREJECT_MAP_FULL:        flow.ReasonMapFull,
	agentRejectREJECT_EGRESS:          flow.ReasonEgress,
}

// reasonOf names a rejection. One that this build does not know is still told.
func reasonOf(r agentReject) flow.Reason {
	if r < agentRejectREJECT_MAX && reasons[r] != "" {
		return reasons[r]
	}
	return "unknown"
}
