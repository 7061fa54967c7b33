package flow

import (
	"net/netip"
	"testing"
)

// Each prefix is tested at both edges, and one address beyond each.
func TestClassOfEdges(t *testing.T) {
	tests := []struct {
		first, last string
		want        Class
		before      Class // of the address before the first
		after       Class // of the address after the last
	}{
		// Always refused.
		{"0.0.0.0", "0.255.255.255", ClassRefused, ClassRefused, ClassPublic},
		{"127.0.0.0", "127.255.255.255", ClassRefused, ClassPublic, ClassPublic},
		{"169.254.0.0", "169.254.255.255", ClassRefused, ClassPublic, ClassPublic},
		{"224.0.0.0", "239.255.255.255", ClassRefused, ClassPublic, ClassRefused},
		{"240.0.0.0", "255.255.255.255", ClassRefused, ClassRefused, ClassRefused},
		{"168.63.129.16", "168.63.129.16", ClassRefused, ClassPublic, ClassPublic},
		{"192.0.0.192", "192.0.0.192", ClassRefused, ClassSpecial, ClassSpecial},
		{"100.100.100.200", "100.100.100.200", ClassRefused, ClassSpecial, ClassSpecial},
		{"::", "::1", ClassRefused, ClassRefused, ClassRefused}, // then ::0.0.0.2
		{"fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ClassRefused, ClassSpecial, ClassSpecial},
		{"ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ClassRefused, ClassSpecial, ClassRefused},
		{"fd00:ec2::", "fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff", ClassRefused, ClassSpecial, ClassSpecial},
		{"fd20:ce::254", "fd20:ce::254", ClassRefused, ClassSpecial, ClassSpecial},
		// Special-purpose.
		{"10.0.0.0", "10.255.255.255", ClassSpecial, ClassPublic, ClassPublic},
		{"100.64.0.0", "100.127.255.255", ClassSpecial, ClassPublic, ClassPublic},
		{"172.16.0.0", "172.31.255.255", ClassSpecial, ClassPublic, ClassPublic},
		{"192.0.0.0", "192.0.0.191", ClassSpecial, ClassPublic, ClassRefused},
		{"192.0.0.193", "192.0.0.255", ClassSpecial, ClassRefused, ClassPublic},
		{"192.0.2.0", "192.0.2.255", ClassSpecial, ClassPublic, ClassPublic},
		{"192.88.99.0", "192.88.99.255", ClassSpecial, ClassPublic, ClassPublic},
		{"192.168.0.0", "192.168.255.255", ClassSpecial, ClassPublic, ClassPublic},
		{"198.18.0.0", "198.19.255.255", ClassSpecial, ClassPublic, ClassPublic},
		{"198.51.100.0", "198.51.100.255", ClassSpecial, ClassPublic, ClassPublic},
		{"203.0.113.0", "203.0.113.255", ClassSpecial, ClassPublic, ClassPublic},
		{"2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", ClassSpecial, ClassPublic, ClassPublic},
		{"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", ClassSpecial, ClassPublic, ClassPublic},
		{"3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", ClassSpecial, ClassPublic, ClassPublic},
		{"fc00::", "fd00:ec1:ffff:ffff:ffff:ffff:ffff:ffff", ClassSpecial, ClassSpecial, ClassRefused},
		{"fd20:ce::255", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ClassSpecial, ClassRefused, ClassSpecial},
		{"fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ClassSpecial, ClassRefused, ClassRefused},
		{"64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", ClassSpecial, ClassSpecial, ClassSpecial},
		{"100::", "100::ffff:ffff:ffff:ffff", ClassSpecial, ClassSpecial, ClassSpecial},
		{"5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ClassSpecial, ClassSpecial, ClassSpecial},
		{"::ffff:0:10.0.0.1", "::ffff:0:10.0.0.1", ClassSpecial, ClassSpecial, ClassSpecial},
		// What is left is the Internet.
		{"1.0.0.0", "9.255.255.255", ClassPublic, ClassRefused, ClassSpecial},
		{"2000::", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ClassPublic, ClassSpecial, ClassSpecial},
		{"2003::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ClassPublic, ClassRefused, ClassSpecial},
		{"3fff:1000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ClassPublic, ClassSpecial, ClassSpecial},
	}
	for _, tt := range tests {
		first, last := netip.MustParseAddr(tt.first), netip.MustParseAddr(tt.last)
		for _, c := range []struct {
			addr netip.Addr
			want Class
		}{{first.Prev(), tt.before}, {first, tt.want}, {last, tt.want}, {last.Next(), tt.after}} {
			if got := ClassOf(c.addr); got != c.want {
				t.Errorf("%s-%s: ClassOf(%s) = %s, want %s", tt.first, tt.last, c.addr, got, c.want)
			}
		}
	}
}

// Whatever carries an IPv4 address has that address's class.
func TestClassOfEmbedded(t *testing.T) {
	for _, text := range []string{
		"0.0.0.0", "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255", "100.100.100.200",
		"10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "1.1.1.1", "8.8.8.8",
	} {
		v4 := netip.MustParseAddr(text)
		want, b := ClassOf(v4), v4.As4()
		forms := map[string][16]byte{
			"v4-mapped":     {10: 0xff, 11: 0xff, 12: b[0], b[1], b[2], b[3]},
			"NAT64":         {0: 0, 0x64, 0xff, 0x9b, 12: b[0], b[1], b[2], b[3]},
			"v4-compatible": {12: b[0], b[1], b[2], b[3]},
			"6to4":          {0: 0x20, 0x02, b[0], b[1], b[2], b[3], 15: 1},
		}
		for name, form := range forms {
			if got := ClassOf(netip.AddrFrom16(form)); got != want {
				t.Errorf("%s %s: %s, want %s", name, netip.AddrFrom16(form), got, want)
			}
		}
	}
}

func TestClassOfStrictestForOddities(t *testing.T) {
	var zero Class
	if zero != ClassRefused {
		t.Error("the zero class is not the strictest")
	}
	for _, addr := range []netip.Addr{{}, netip.MustParseAddr("2600::1%lo"), netip.MustParseAddr("fe80::1%lo")} {
		if got := ClassOf(addr); got != ClassRefused {
			t.Errorf("ClassOf(%s) = %s, want refused", addr, got)
		}
	}
}
