package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// TestRefusedByHooks tries everything over IP that is no TCP connection and no
// DNS. The program is one that the policy allows: here nothing depends on it.
func TestRefusedByHooks(t *testing.T) {
	f := newFixture(t)
	python := realPath(t, "/usr/bin/python3")
	script := f.copyOf("testdata/refused.py", "refused.py")
	r := f.sh(f.allow([]int{25, 443}, python), python+" "+script+" "+deniedIPv4+" $(getent ahostsv4 "+allowedName+" | head -n1 | cut -d' ' -f1)")
	tests := []struct {
		name, errno string
		reason      string // of a record; "" where no hook is what refuses
		host        string
	}{
		{"udp", "EPERM", "udp", deniedIPv4},
		{"udp-to-a-name", "EPERM", "udp", allowedName},
		{"udp6", "EPERM", "udp", "2001:db8:3::90"},
		{"udp-mapped", "EPERM", "udp", deniedIPv4},
		{"udp-connected", "EPERM", "", ""}, // counted only: glibc does it to sort addresses
		{"udp-ntp", "EPERM", "udp", deniedIPv4},
		{"raw-icmp", "EPERM", "", ""}, // from here on, the filter of system calls
		{"raw", "EPERM", "", ""},
		{"ping", "EPROTONOSUPPORT", "", ""},
		{"packet", "EAFNOSUPPORT", "", ""},
		{"sctp", "EPROTONOSUPPORT", "", ""}, // to here
		{"mptcp", "EPERM", "socket_type", ""},
		{"fast-open", "ECONNRESET", "", ""},
		{"bind-capture", "EPERM", "reserved_port", ""},
		{"connect-capture", "EPERM", "reserved_port", "127.0.0.1"},
		{"udp-dns-listener", "EPERM", "reserved_port", "127.0.0.1"},
	}
	got := map[string]string{}
	for line := range strings.Lines(r.stdout) {
		name, errno, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[name] = errno
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			errno := got[tt.name]
			if errno != tt.errno {
				t.Errorf("%q, want %s\n%s", errno, tt.errno, r.stderr)
			}
			if tt.reason == "" {
				return
			}
			for _, rec := range r.of("kernel") {
				if rec.Reason == tt.reason && rec.Host == tt.host {
					rec.check(t, record{Verdict: "deny", Engine: "kernel", Binary: python})
					return
				}
			}
			t.Errorf("no record of %s about %q: %+v", tt.reason, tt.host, r.of("kernel"))
		})
	}
	// What the witness sees beyond DNS questions of the agent would have escaped.
	f.env.NothingArrived(t, func(flow testenv.Flow) bool {
		return flow.Destination.Addr() != f.env.Resolver().Addr()
	})
}

// TestMultipathTCPFallsBack: a client that asks for MPTCP gets TCP.
func TestMultipathTCPFallsBack(t *testing.T) {
	f := newFixture(t)
	probe := f.tool(toolGo)
	r := f.sh(f.allow([]int{25}, probe), probe+" -mptcp connect "+allowedName+":25")
	if s := sawIn(t, r.stdout); s.Data != testenv.Banner {
		t.Errorf("saw %+v, want the banner", s)
	}
	r.one(t, allowedName).check(t, record{Verdict: "allow", Mode: "transparent", Binary: probe})
}

// TestPeerIsWhatWasAskedFor: getpeername shows the address that the program
// connected to, and the server's side shows the one that was checked.
func TestPeerIsWhatWasAskedFor(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	client := f.tool(toolC)
	r, results := f.steps(f.allow([]int{25}, client), []step{
		{"-4", client + " -4 " + allowedName + " 25; getent ahostsv4 " + allowedName},
		{"-6", client + " -6 " + allowedName + " 25; getent ahostsv6 " + allowedName},
		{"-m", client + " -m " + allowedName + " 25; getent ahostsv4 " + allowedName},
	})
	for flag, got := range results {
		output, addrs, _ := strings.Cut(got.output, "\n")
		want, _, _ := strings.Cut(addrs, " ")
		if flag == "-m" {
			want = "::ffff:" + want
		}
		if s := sawIn(t, output); s.Peer != want {
			t.Errorf("%s: the peer is %s, want %s", flag, s.Peer, want)
		}
	}
	for _, rec := range r.about(allowedName) {
		if addr := netip.MustParseAddr(rec.Address); addr != netip.MustParseAddr(allowedIPv4) && addr != netip.MustParseAddr(allowedIPv6) {
			t.Errorf("record says that %s was dialled", addr)
		}
	}
}
