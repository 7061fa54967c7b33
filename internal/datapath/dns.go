package datapath

import "errors"

// removeDNSSlots removes what tells the DNS servers of a sandbox apart. They are
// known by its network namespace.
func (dp *Datapath) removeDNSSlots(cookie uint64) error {
	var (
		server  agentDnsServer
		number  uint32
		slot    agentDnsSlot
		address agentAddress
	)
	return errors.Join(
		sweep(dp.objects.DnsSlots, &server, &number, func() bool { return server.NetnsCookie == cookie }),
		sweep(dp.objects.DnsServers, &slot, &address, func() bool { return slot.NetnsCookie == cookie }),
	)
}
