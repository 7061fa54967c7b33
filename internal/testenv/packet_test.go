package testenv

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParsePacket(t *testing.T) {
	udp4 := "\x45\x00\x00\x20\x00\x00\x00\x00\x40\x11\x00\x00\xcb\x00\x71\x01\xc6\x33\x64\x01" +
		"\x9c\x40\x01\xbb\x00\x0c\x00\x00quic"
	icmp6 := "\x60\x00\x00\x00\x00\x04\x3a\x40" +
		"\x20\x01\x0d\xb8\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05" + "\x80\x00\x00\x00"
	for _, test := range []struct {
		name      string
		etherType uint16
		data      string
		want      Flow
	}{
		{"udp", unix.ETH_P_IP, udp4, Flow{EtherType: unix.ETH_P_IP, Protocol: unix.IPPROTO_UDP,
			Source: addrPort("203.0.113.1:40000"), Destination: addrPort("198.51.100.1:443"), Payload: []byte("quic")}},
		{"ports cut off", unix.ETH_P_IP, udp4[:24], Flow{EtherType: unix.ETH_P_IP, Protocol: unix.IPPROTO_UDP,
			Source: addrPort("203.0.113.1:0"), Destination: addrPort("198.51.100.1:0"), Payload: []byte("\x9c\x40\x01\xbb")}},
		{"later fragment", unix.ETH_P_IP, udp4[:6] + "\x00\x01" + udp4[8:], Flow{EtherType: unix.ETH_P_IP,
			Protocol: unix.IPPROTO_UDP, Source: addrPort("203.0.113.1:0"), Destination: addrPort("198.51.100.1:0")}},
		{"icmp6", unix.ETH_P_IPV6, icmp6, Flow{EtherType: unix.ETH_P_IPV6, Protocol: unix.IPPROTO_ICMPV6,
			Source: addrPort("[2001:db8:1::1]:0"), Destination: addrPort("[2001:db8::5]:0"), Payload: []byte("\x80\x00\x00\x00")}},
		{"header cut off", unix.ETH_P_IP, udp4[:12], Flow{EtherType: unix.ETH_P_IP}},
		{"no IP", 0x88b5, "hello", Flow{EtherType: 0x88b5}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := parsePacket(test.etherType, []byte(test.data))
			if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b Flow) bool {
				return a.String() == b.String() && string(a.Payload) == string(b.Payload)
			})); diff != "" {
				t.Errorf("parsePacket (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(uint16(unix.ETH_P_IP), []byte("\x4f\x00\x00\x20\x00\x00\x00\x00\x40\x06\x00\x00\xcb\x00\x71\x01\xc6\x33\x64\x01"))
	f.Fuzz(func(t *testing.T, etherType uint16, data []byte) {
		flow := parsePacket(etherType, data)
		if len(flow.Payload) > len(data) {
			t.Errorf("payload of %d bytes from %d", len(flow.Payload), len(data))
		}
	})
}
