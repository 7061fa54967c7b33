package datapath

import "github.com/cilium/ebpf"

// fit makes the maps no larger than a number of sandboxes can fill them. Their
// buckets are made at once: for all sandboxes there may be they take 57 MB, and
// longer than the rest of a start.
func fit(spec *ebpf.CollectionSpec, sandboxes uint32) {
	each := map[string]agentBound{
		agentMapSandboxes:  1,
		agentMapTasks:      agentBoundSANDBOX_TASKS,
		agentMapExecs:      agentBoundSANDBOX_EXECS,
		agentMapLongPaths:  agentBoundSANDBOX_LONG_PATHS,
		agentMapOrigins:    agentBoundSANDBOX_ORIGINS,
		agentMapDnsSlots:   agentBoundSANDBOX_DNS_SLOTS,
		agentMapDnsServers: agentBoundSANDBOX_DNS_SLOTS,
	}
	for name, n := range each {
		m := spec.Maps[name]
		m.MaxEntries = min(m.MaxEntries, sandboxes*uint32(n))
	}
	spec.Maps[agentMapSandboxStates].MaxEntries = sandboxes + 1 // and that of unknown ones
}
