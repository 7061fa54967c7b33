package datapath

//go:generate go tool bpf2go -go-package datapath -target bpfel -cc clang -cflags "-O2 -g -mcpu=v3 -Wall -Werror" -type call -type outcome verdict ../../bpf/tests/verdict.bpf.c -- -I../../bpf/headers

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/testenv"
)

// verdict is what a decision of bpf/verdict.bpf.h came to, for people.
type verdict struct {
	Outcome verdictOutcome
	Reason  flow.Reason // of a rejection
}

var (
	pass    = verdict{Outcome: verdictOutcomeOUTCOME_PASS}
	capture = verdict{Outcome: verdictOutcomeOUTCOME_CAPTURE}
	proxy   = verdict{Outcome: verdictOutcomeOUTCOME_PROXY}
	dns     = verdict{Outcome: verdictOutcomeOUTCOME_DNS}
)

func rejected(reason flow.Reason) verdict { return verdict{Reason: reason} }

func loadVerdicts(t *testing.T) *verdictPrograms {
	t.Helper()
	testenv.Require(t)
	var programs verdictPrograms
	if err := loadVerdictObjects(&programs, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { programs.Close() })
	return &programs
}

// newCall returns a call on behalf of the fixture's sandbox.
func newCall(to string, port uint16) verdictCall {
	var c verdictCall
	c.Sandbox.CapturePort, c.Sandbox.DnsPort, c.Sandbox.ProxyPort = capturePort, dnsPort, proxyPort
	if to != "" {
		c.Address.Words = kernelAddress(netip.MustParseAddr(to)).Words
	}
	c.Port = uint32(port)
	return c
}

func (c *verdictCall) run(t *testing.T, program *ebpf.Program) verdict {
	t.Helper()
	buf := unsafe.Slice((*byte)(unsafe.Pointer(c)), int(unsafe.Sizeof(*c)))
	if _, err := program.Run(&ebpf.RunOptions{Context: buf, ContextOut: buf}); err != nil {
		t.Fatal(err)
	}
	v := verdict{Outcome: verdictOutcome(c.Verdict.Outcome)}
	if c.Verdict.Reason != 0 {
		v.Reason = reasonOf(agentReject(c.Verdict.Reason))
	}
	return v
}

func TestVerdictOfAddress(t *testing.T) {
	programs := loadVerdicts(t)
	reserved := rejected(flow.ReasonReservedPort)
	noUDP := rejected(flow.ReasonUDP)
	tests := []struct {
		to       string
		port     uint16
		tcp, udp verdict
	}{
		{"203.0.113.7", 443, capture, noUDP},
		{"203.0.113.7", 0, capture, noUDP},
		{"203.0.113.7", capturePort, capture, noUDP},
		{"203.0.113.7", proxyPort, capture, noUDP},
		{"2001:db8::7", 443, capture, noUDP},
		{"2001:db8::7", dnsPort, capture, noUDP},
		{"::ffff:203.0.113.7", 443, capture, noUDP},
		{"::203.0.113.7", 443, capture, noUDP},      // IPv4-compatible: no IPv4 address to the kernel
		{"64:ff9b::127.0.0.1", 443, capture, noUDP}, // nor is NAT64
		{"169.254.169.254", 80, capture, noUDP},
		{"fe80::1", 80, capture, noUDP},
		{"224.0.0.1", 5353, capture, noUDP},
		{"255.255.255.255", 67, capture, noUDP},

		{"203.0.113.53", 53, dns, dns},
		{"2001:db8::53", 53, dns, dns},
		{"::ffff:203.0.113.53", 53, dns, dns},
		{"127.0.0.53", 53, dns, dns},
		{"::1", 53, dns, dns},
		{"0.0.0.0", 53, dns, dns},

		{"126.255.255.255", 80, capture, noUDP},
		{"127.0.0.0", 80, pass, pass},
		{"127.0.0.1", 80, pass, pass},
		{"127.255.255.255", 80, pass, pass},
		{"128.0.0.0", 80, capture, noUDP},
		{"::ffff:127.0.0.1", 80, pass, pass},
		{"0.0.0.0", 80, pass, pass},
		{"0.0.0.1", 80, capture, noUDP},
		{"::ffff:0.0.0.0", 80, pass, pass},
		{"::", 80, pass, pass},
		{"::1", 80, pass, pass},
		{"::2", 80, capture, noUDP},
		{"::127.0.0.1", 80, capture, noUDP},
		{"::1:0:0:1", 80, capture, noUDP},

		{"127.0.0.1", capturePort, reserved, reserved},
		{"127.0.0.1", dnsPort, reserved, reserved},
		{"127.0.0.1", proxyPort, proxy, reserved},
		{"::1", capturePort, reserved, reserved},
		{"::1", dnsPort, reserved, reserved},
		{"::1", proxyPort, proxy, reserved},
		{"0.0.0.0", capturePort, reserved, reserved},
		{"::", proxyPort, proxy, reserved},
		{"127.83.0.1", dnsPort, reserved, reserved}, // a DNS slot
		{"127.0.0.1", capturePort + 1, pass, pass},
		{"127.0.0.1", 0, pass, pass},
	}
	for _, tt := range tests {
		t.Run(netip.AddrPortFrom(netip.MustParseAddr(tt.to), tt.port).String(), func(t *testing.T) {
			c := newCall(tt.to, tt.port)
			if got := c.run(t, programs.Tcp); got != tt.tcp {
				t.Errorf("TCP: %s", cmp.Diff(tt.tcp, got))
			}
			c.Otherwise = uint32(agentRejectREJECT_UDP)
			if got := c.run(t, programs.Udp); got != tt.udp {
				t.Errorf("UDP: %s", cmp.Diff(tt.udp, got))
			}
		})
	}
}

// Where a listener is not there its port is 0, which is not to reserve port 0.
func TestVerdictWithoutListeners(t *testing.T) {
	programs := loadVerdicts(t)
	for name, program := range map[string]*ebpf.Program{"tcp": programs.Tcp, "udp": programs.Udp, "bind": programs.Bind} {
		c := newCall("127.0.0.1", 0)
		c.Sandbox.CapturePort, c.Sandbox.DnsPort, c.Sandbox.ProxyPort = 0, 0, 0
		if got := c.run(t, program); got != pass {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestVerdictOfBind(t *testing.T) {
	programs := loadVerdicts(t)
	for port, want := range map[uint16]verdict{
		0:               pass,
		53:              pass,
		8080:            pass,
		65535:           pass,
		capturePort - 1: pass,
		capturePort:     rejected(flow.ReasonReservedPort),
		dnsPort:         rejected(flow.ReasonReservedPort),
		proxyPort:       rejected(flow.ReasonReservedPort),
	} {
		c := newCall("", port)
		if got := c.run(t, programs.Bind); got != want {
			t.Errorf("port %d: %s", port, cmp.Diff(want, got))
		}
	}
}

func TestVerdictOfSocket(t *testing.T) {
	programs := loadVerdicts(t)
	badType, badFamily := rejected(flow.ReasonSocketType), rejected(flow.ReasonAddressFamily)
	const dccp = 6 // SOCK_DCCP
	tests := []struct {
		name                   string
		family, kind, protocol uint32
		want                   verdict
	}{
		{"TCP by default", unix.AF_INET, unix.SOCK_STREAM, 0, pass},
		{"TCP", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, pass},
		{"TCP over IPv6", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP, pass},
		{"UDP by default", unix.AF_INET, unix.SOCK_DGRAM, 0, pass},
		{"UDP over IPv6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP, pass},
		{"UDP as a stream", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_UDP, badType},
		{"TCP as datagrams", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_TCP, badType},
		{"MPTCP", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, badType},
		{"MPTCP over IPv6", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, badType},
		{"SMC", unix.AF_INET, unix.SOCK_STREAM, 256, badType},
		{"SCTP", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP, badType},
		{"SCTP packets", unix.AF_INET6, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP, badType},
		{"UDP-Lite", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, badType},
		{"DCCP", unix.AF_INET, dccp, unix.IPPROTO_DCCP, badType},
		{"L2TP", unix.AF_INET, unix.SOCK_DGRAM, 115, badType},
		{"ping", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP, badType},
		{"ping over IPv6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6, badType},
		{"raw ICMP", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, badType},
		{"raw TCP", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP, badType},
		{"raw IP", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW, badType},
		{"packet", unix.AF_PACKET, unix.SOCK_DGRAM, 0, badFamily},
		{"vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0, badFamily},
		{"no family", unix.AF_UNSPEC, unix.SOCK_STREAM, 0, badFamily},
		{"nothing", 0, 0, 0, badFamily},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := verdictCall{Family: tt.family, Type: tt.kind, Protocol: tt.protocol}
			if got := c.run(t, programs.Socket); got != tt.want {
				t.Error(cmp.Diff(tt.want, got))
			}
		})
	}
}

func TestVerdictOfPacket(t *testing.T) {
	programs := loadVerdicts(t)
	egress := rejected(flow.ReasonEgress)
	tests := []struct {
		to       string
		protocol uint32
		want     verdict
	}{
		{"127.0.0.1", unix.IPPROTO_TCP, pass},
		{"127.0.0.1", unix.IPPROTO_UDP, pass},
		{"::1", unix.IPPROTO_TCP, pass},
		{"127.83.0.9", unix.IPPROTO_UDP, pass},
		{"fd52:696e:67fe:53::9", unix.IPPROTO_UDP, pass},
		{"fd52:696e:67fe:54::9", unix.IPPROTO_UDP, egress},
		{"127.0.0.1", unix.IPPROTO_ICMP, egress},
		{"::1", unix.IPPROTO_ICMPV6, egress},
		{"::1", unix.IPPROTO_FRAGMENT, egress},
		{"127.0.0.1", unix.IPPROTO_SCTP, egress},
		{"203.0.113.7", unix.IPPROTO_TCP, egress},
		{"2001:db8::7", unix.IPPROTO_UDP, egress},
	}
	for _, tt := range tests {
		c := newCall(tt.to, 0)
		c.Protocol = tt.protocol
		if got := c.run(t, programs.Packet); got != tt.want {
			t.Errorf("%s, protocol %d: %s", tt.to, tt.protocol, cmp.Diff(tt.want, got))
		}
	}
}

func TestAddressClasses(t *testing.T) {
	programs := loadVerdicts(t)
	tests := []struct {
		address                   string
		v4, loopback, unspecified uint8
		slot                      uint32
	}{
		{address: "0.0.0.0", v4: 1, loopback: 1, unspecified: 1},
		{address: "::", loopback: 1, unspecified: 1},
		{address: "::1", loopback: 1},
		{address: "127.0.0.1", v4: 1, loopback: 1},
		{address: "203.0.113.0", v4: 1},
		{address: "::fffe:0:0"},
		{address: "1::ffff:0:0"},
		{address: "2001:db8::"},
		{address: "127.83.0.0", v4: 1, loopback: 1},
		{address: "127.83.0.1", v4: 1, loopback: 1, slot: 1},
		{address: "127.83.255.255", v4: 1, loopback: 1, slot: 0xffff},
		{address: "127.84.0.1", v4: 1, loopback: 1},
		{address: "fd52:696e:67fe:53::1", slot: 1},
		{address: "fd52:696e:67fe:53:0:1::1"},
		{address: "fd52:696e:67fe:52::1"},
		{address: "fd52:696f:67fe:53::1"},
	}
	for _, tt := range tests {
		c := newCall(tt.address, 0)
		c.run(t, programs.Classify)
		got := tt
		got.v4, got.loopback, got.unspecified, got.slot = c.V4, c.Loopback, c.Unspecified, c.SlotOf
		if got != tt {
			t.Errorf("%s: got %+v, want %+v", tt.address, got, tt)
		}
	}
}

// The answer of a DNS server finds its way back by its slot.
func TestSlotsRoundTrip(t *testing.T) {
	programs := loadVerdicts(t)
	for _, family := range []uint32{unix.AF_INET, unix.AF_INET6} {
		seen := map[[4]uint32]bool{}
		for slot := range uint32(250) {
			c := verdictCall{Family: family, Slot: slot + 1}
			c.run(t, programs.Slots)
			if c.SlotOf != slot+1 || seen[c.SlotAddress.Words] {
				t.Fatalf("family %d: slot %d came back as %d from %v", family, slot+1, c.SlotOf, c.SlotAddress.Words)
			}
			seen[c.SlotAddress.Words] = true
		}
	}
}

// Whatever comes in: a verdict is one of the enum, a rejection alone has a
// reason, and no way but loopback passes unseen.
func TestVerdictsOfAnything(t *testing.T) {
	programs := loadVerdicts(t)
	all := map[string]*ebpf.Program{
		"tcp": programs.Tcp, "udp": programs.Udp, "bind": programs.Bind,
		"socket": programs.Socket, "packet": programs.Packet,
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		c := randomCall(random)
		classes := c
		classes.run(t, programs.Classify)
		local := classes.Loopback != 0 || classes.SlotOf != 0
		for name, program := range all {
			c.run(t, program)
			v := c.Verdict
			if v.Outcome > uint32(verdictOutcomeOUTCOME_DNS) || v.Reason >= uint32(agentRejectREJECT_MAX) {
				t.Fatalf("%s: no verdict of the enum: %+v", name, c)
			}
			isRejection := v.Outcome == uint32(verdictOutcomeOUTCOME_REJECT)
			if isRejection != (v.Reason != uint32(agentRejectREJECT_NONE)) {
				t.Fatalf("%s: outcome and reason disagree: %+v", name, c)
			}
			aboutAddress := name == "tcp" || name == "udp" || name == "packet"
			if aboutAddress && v.Outcome == uint32(verdictOutcomeOUTCOME_PASS) && !local {
				t.Fatalf("%s: passes to %v: %+v", name, c.Address, c)
			}
		}
	}
}

// randomCall is random where it may be, but for values that it would never hit.
func randomCall(random *rand.Rand) verdictCall {
	pick := func(values ...uint32) uint32 {
		if i := random.IntN(len(values) + 1); i < len(values) {
			return values[i]
		}
		return random.Uint32()
	}
	addresses := []string{"127.0.0.1", "::1", "0.0.0.0", "::", "203.0.113.7", "2001:db8::7", "127.83.0.1", "fd52:696e:67fe:53::1"}
	c := newCall(addresses[random.IntN(len(addresses))], uint16(pick(53, capturePort, dnsPort, proxyPort, 0)))
	c.Address.Words[random.IntN(4)] ^= pick(0, 0, 0, 1, 0x01000000)
	c.Otherwise = pick(uint32(agentRejectREJECT_UDP), uint32(agentRejectREJECT_UDP_CONNECT)) % uint32(agentRejectREJECT_MAX)
	c.Otherwise = max(c.Otherwise, 1) // the caller's own reason, never none
	c.Family = pick(unix.AF_INET, unix.AF_INET6)
	c.Type = pick(unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW)
	c.Protocol = pick(0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_MPTCP)
	return c
}
