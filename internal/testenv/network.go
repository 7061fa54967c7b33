package testenv

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"

	"github.com/ringfence/ringfence/internal/netns"
)

// The ends of the veth pair, named alike in every Env: names are per namespace.
const (
	hostLink     = "uplink"
	internetLink = "downlink"
)

// hostSetup runs in the host namespace; %s is the path of the other one. Without
// link-local addresses and duplicate address detection nothing has to be waited
// for. Neighbour discovery answers for assigned addresses only, so IPv6 has no
// on-link prefix: all of it goes through the one neighbour.
const hostSetup = `link set lo up
link add ` + hostLink + ` type veth peer name ` + internetLink + ` netns %s
link set ` + hostLink + ` addrgenmode none
addr add ` + HostIPv4 + `/24 dev ` + hostLink + `
addr add ` + HostIPv6 + `/128 dev ` + hostLink + ` nodad
link set ` + hostLink + ` up
route add 2001:db8:1::2/128 dev ` + hostLink + `
route add default via 203.0.113.2
route add default via 2001:db8:1::2
`

// internetSetup makes every address but the host's local. The routes stand in
// the main table: in the local table they would shadow those to the host.
const internetSetup = `link set lo up
link set ` + internetLink + ` addrgenmode none
addr add 203.0.113.2/32 dev ` + internetLink + `
addr add 2001:db8:1::2/128 dev ` + internetLink + ` nodad
link set ` + internetLink + ` up
route add ` + HostIPv4 + `/32 dev ` + internetLink + `
route add ` + HostIPv6 + `/128 dev ` + internetLink + `
route add local 0.0.0.0/0 dev lo table main
route add local ::/0 dev lo table main
`

func (e *Env) startNetwork() error {
	for _, ns := range []**netns.Handle{&e.host, &e.internet} {
		handle, err := netns.New()
		if err != nil {
			return fmt.Errorf("make namespace: %w", err)
		}
		*ns = handle
		e.atClose(handle.Close)
	}
	if err := setup(e.host, fmt.Sprintf(hostSetup, nsPath(e.internet))); err != nil {
		return fmt.Errorf("set up host namespace: %w", err)
	}
	if err := setup(e.internet, internetSetup); err != nil {
		return fmt.Errorf("set up internet namespace: %w", err)
	}
	return nil
}

// setup feeds lines of commands to ip(8) in the namespace.
func setup(ns *netns.Handle, lines string) error {
	return ns.Do(func() error {
		ip := exec.Command("ip", "-batch", "-")
		ip.Stdin = strings.NewReader(lines)
		if out, err := ip.CombinedOutput(); err != nil {
			return fmt.Errorf("run ip: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}
