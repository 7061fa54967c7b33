package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// hostLoopback listens on a port of the agent's own loopback and returns how
// often somebody came.
func (f *fixture) hostLoopback(port int) *atomic.Int32 {
	f.t.Helper()
	came := new(atomic.Int32)
	for _, addr := range []string{"127.0.0.1", "[::1]"} {
		var listener net.Listener
		err := f.env.Do(func() (err error) {
			listener, err = net.Listen("tcp", fmt.Sprint(addr, ":", port))
			return err
		})
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				came.Add(1)
				conn.Close()
			}
		}()
	}
	return came
}

// TestRebinding has allowed names lead to where no sandbox may go.
func TestRebinding(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	client := f.tool(toolC)
	came := f.hostLoopback(testenv.PortBanner)
	tests := []struct{ name, addrs, reason, address string }{
		{"loopback", "127.0.0.1", "unsafe_address", "127.0.0.1"},
		{"loopback-v6", "::1", "unsafe_address", "::1"},
		{"unspecified", "0.0.0.0", "unsafe_address", "0.0.0.0"},
		{"metadata", testenv.Metadata, "unsafe_address", testenv.Metadata},
		{"metadata-v6", metadataIPv6, "unsafe_address", metadataIPv6},
		{"link-local-v6", "fe80::1", "unsafe_address", "fe80::1"},
		{"multicast", "224.0.0.1", "unsafe_address", "224.0.0.1"},
		{"nat64-metadata", "64:ff9b::a9fe:a9fe", "unsafe_address", "64:ff9b::a9fe:a9fe"},
		{"6to4-loopback", "2002:7f00:1::1", "unsafe_address", "2002:7f00:1::1"},
		{"rfc1918", privateIPv4, "private_address", privateIPv4},
		{"cgnat", "100.64.0.1", "private_address", "100.64.0.1"},
		{"ula", "fd12:3456::1", "private_address", "fd12:3456::1"},
		// One bad address spoils the answer: the others are not dialled either.
		{"mixed", "203.0.113.90 " + privateIPv4, "private_address", privateIPv4},
	}
	var steps []step
	for _, tt := range tests {
		var addrs []netip.Addr
		for _, text := range strings.Fields(tt.addrs) {
			addrs = append(addrs, netip.MustParseAddr(text))
		}
		f.env.Zone(tt.name+".open.test", addrs...)
		steps = append(steps, step{tt.name, client + " " + tt.name + ".open.test 25"})
	}
	r, results := f.steps(f.policy(allowBlock("open", "*.open.test", []int{25}, client)), steps)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			checkClient(t, results[tt.name], false)
			r.one(t, tt.name+".open.test").check(t, record{Verdict: "deny", Engine: "ssrf", Reason: tt.reason,
				Policy: "open", Mode: "transparent", Binary: client, Address: tt.address})
			for _, text := range strings.Fields(tt.addrs) {
				f.env.NothingArrived(t, testenv.To(netip.MustParseAddr(text)))
			}
		})
	}
	if n := came.Load(); n != 0 {
		t.Errorf("%d connections reached the agent's own loopback", n)
	}
}

// TestAddressForms asks for addresses in all the ways in which they can be
// written. Loopback is the sandbox's own, whatever its form.
func TestAddressForms(t *testing.T) {
	testenv.Require(t, "curl", "gcc")
	f := newFixture(t)
	curl, python := realPath(t, "curl"), realPath(t, "/usr/bin/python3")
	came := f.hostLoopback(8080)
	const serve = " -m http.server --bind :: 8080 >/dev/null 2>&1 & "
	const wait = "until curl -s -o /dev/null http://127.0.0.1:8080/; do sleep 0.05; done; "
	loopback := []string{"127.0.0.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.1", "127.9.9.9", "0.0.0.0", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]"}
	inside := "cd $(mktemp -d); echo inside > index.html; " + python + serve + wait
	for _, form := range loopback {
		inside += fmt.Sprintf("printf '%%s ' '%s'; curl -sS http://%s:8080/ || echo; ", form, form)
	}
	// 198.51.100.80 in other words; each port is used once.
	others := []string{"3325256784", "0xc6.0x33.0x64.0x50", "0306.063.0144.0120", "198.51.25680", "[::ffff:198.51.100.80]", "[::ffff:c633:6450]"}
	steps := []step{{"loopback", inside + "kill $!"}}
	for i, form := range others {
		steps = append(steps, step{form, fmt.Sprintf("%s%s -sS http://%s:%d/", withoutProxy, curl, form, 7000+i)})
		steps = append(steps, step{form + " by the proxy", fmt.Sprintf("%s -sS https://%s:%d/", curl, form, 7100+i)})
	}
	r, results := f.steps(f.allow([]int{443}, curl), steps)
	for _, form := range loopback {
		if !strings.Contains(results["loopback"].output, form+" inside\n") && !strings.HasSuffix(results["loopback"].output, form+" inside") {
			t.Errorf("%s is not the sandbox's own loopback: %s", form, results["loopback"].output)
		}
	}
	if n := came.Load(); n != 0 {
		t.Errorf("%d connections reached the agent's own loopback", n)
	}
	ports := map[int]record{}
	for _, rec := range r.about(deniedIPv4) {
		ports[rec.Port] = rec
	}
	for i, form := range others {
		t.Run(form, func(t *testing.T) {
			if results[form].status == 0 || results[form+" by the proxy"].status == 0 {
				t.Error("curl succeeded")
			}
			want := record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint", Binary: curl}
			want.Mode = "transparent"
			ports[7000+i].check(t, want)
			want.Mode = "connect"
			ports[7100+i].check(t, want)
		})
	}
	f.env.NothingArrived(t, testenv.To(netip.MustParseAddr(deniedIPv4)))
}
