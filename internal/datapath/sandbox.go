package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
)

// Sandbox is what the hooks must know of one sandbox.
type Sandbox struct {
	CgroupID    uint64
	NetnsCookie uint64
	// MountNS and UserNS are namespace inode numbers. Until both are set, no
	// task of the sandbox gets an identity: its launcher runs before that.
	MountNS, UserNS uint32
	// Ports of the listeners inside the sandbox.
	Capture, DNS, Proxy uint16
}

// Stats is what the hooks counted for one sandbox.
type Stats struct {
	Tasks, Execs, LongPaths, Origins, DNSSlots uint32
	// ExecsLost counts execs that got no record for want of room.
	ExecsLost uint32
	// Rejected counts rejections by reason; reasons at zero are left out.
	Rejected map[flow.Reason]uint64
}

// unknownSandbox is the key under which rejections of no sandbox are counted.
const unknownSandbox = uint64(0)

func (dp *Datapath) addUnknownState() error {
	err := dp.objects.SandboxStates.Update(unknownSandbox, agentSandboxState{}, ebpf.UpdateNoExist)
	if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("add counters of unknown sandboxes: %w", err)
	}
	return nil
}

// AddSandbox makes the hooks serve a sandbox. Its counters come first: they are
// what its bounds are kept by.
func (dp *Datapath) AddSandbox(sb Sandbox) error {
	if err := dp.objects.SandboxStates.Update(sb.CgroupID, agentSandboxState{}, ebpf.UpdateNoExist); err != nil {
		return fmt.Errorf("add sandbox counters: %w", err)
	}
	if err := dp.UpdateSandbox(sb); err != nil {
		return errors.Join(err, dp.RemoveSandbox(sb.CgroupID))
	}
	return nil
}

// UpdateSandbox replaces what the hooks know of a sandbox in one step.
func (dp *Datapath) UpdateSandbox(sb Sandbox) error {
	value := agentSandbox{
		NetnsCookie: sb.NetnsCookie,
		MntNs:       sb.MountNS,
		UserNs:      sb.UserNS,
		CapturePort: sb.Capture,
		DnsPort:     sb.DNS,
		ProxyPort:   sb.Proxy,
	}
	if err := dp.objects.Sandboxes.Put(sb.CgroupID, value); err != nil {
		return fmt.Errorf("update sandbox: %w", err)
	}
	return nil
}

// RemoveSandbox makes the hooks reject whatever is left in the cgroup, and
// forgets what they remembered of it.
func (dp *Datapath) RemoveSandbox(cgroupID uint64) error {
	var sb agentSandbox
	err := dp.objects.Sandboxes.Lookup(cgroupID, &sb)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil // it may never have got in
	}
	return errors.Join(
		err,
		deleteIfThere(dp.objects.Sandboxes, cgroupID),
		dp.removeTasks(cgroupID),
		dp.removeOrigins(cgroupID),
		dp.removeExecs(cgroupID),
		dp.removeDNSSlots(sb.NetnsCookie),
		deleteIfThere(dp.objects.SandboxStates, cgroupID),
	)
}

// Sandbox returns what the hooks know of a sandbox, ErrNotFound where that is nothing.
func (dp *Datapath) Sandbox(cgroupID uint64) (Sandbox, error) {
	var value agentSandbox
	if err := dp.objects.Sandboxes.Lookup(cgroupID, &value); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			err = ErrNotFound
		}
		return Sandbox{}, fmt.Errorf("look up sandbox: %w", err)
	}
	return sandboxOf(cgroupID, &value), nil
}

func sandboxOf(cgroupID uint64, value *agentSandbox) Sandbox {
	return Sandbox{
		CgroupID: cgroupID, NetnsCookie: value.NetnsCookie, MountNS: value.MntNs, UserNS: value.UserNs,
		Capture: value.CapturePort, DNS: value.DnsPort, Proxy: value.ProxyPort,
	}
}

// Stats returns the counters of a sandbox. Key 0 has those of no sandbox.
func (dp *Datapath) Stats(cgroupID uint64) (Stats, error) {
	var s agentSandboxState
	if err := dp.objects.SandboxStates.Lookup(cgroupID, &s); err != nil {
		return Stats{}, fmt.Errorf("read sandbox counters: %w", err)
	}
	stats := Stats{
		Tasks: s.Tasks, Execs: s.Execs, LongPaths: s.LongPaths, Origins: s.Origins,
		DNSSlots: s.DnsSlots, ExecsLost: s.ExecsLost, Rejected: map[flow.Reason]uint64{},
	}
	for i, n := range s.Rejected {
		if n > 0 {
			stats.Rejected[reasonOf(agentReject(i))] = n
		}
	}
	return stats, nil
}

func deleteIfThere(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from %s: %w", m, err)
	}
	return nil
}
