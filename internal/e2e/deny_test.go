package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// deniedSoon is how soon a denied program must know.
const deniedSoon = 100 // ms

// A host for each way in which a connection can be denied, or just not be.
const (
	otherName       = "other.test"        // for another program
	undeclaredName  = "undeclared.test"   // in no policy
	privateName     = "private.test"      // at privateIPv4
	privateOpenName = "private-open.test" // at privateOpenIPv4, which its endpoint names
	privateIPv4     = "10.20.0.5"
	privateOpenIPv4 = "10.20.1.5"
	metadataIPv6    = "fd00:ec2::254"
)

// denials is a policy under which the programs given are denied each in its way.
func (f *fixture) denials(binaries ...string) string {
	f.t.Helper()
	for name, addr := range map[string]string{
		otherName: deniedIPv4, undeclaredName: deniedIPv4,
		privateName: privateIPv4, privateOpenName: privateOpenIPv4,
	} {
		f.env.Zone(name, netip.MustParseAddr(addr))
	}
	banner := []int{testenv.PortBanner}
	return f.policy(allowBlock("open", allowedName, banner, binaries...) +
		allowBlock("other", otherName, banner, "/usr/bin/another") +
		allowBlock("private", privateName, banner, binaries...) +
		withAllowedIPs("10.20.1.0/24", allowBlock("private-open", privateOpenName, banner, binaries...)))
}

// withAllowedIPs adds allowed_ips to the endpoint of a block.
func withAllowedIPs(cidr, block string) string {
	return strings.Replace(block, "}\n    binaries", fmt.Sprintf(", allowed_ips: [%q]}\n    binaries", cidr), 1)
}

func TestReasons(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	client := f.tool(toolC)
	policy := f.denials(client)
	banner := record{Verdict: "allow", Engine: "opa", Reason: "allowed", Mode: "transparent", Received: int64(len(testenv.Banner))}
	tests := []struct {
		name, args, host string
		want             record
	}{
		{"allowed", allowedName + " 25", allowedName, banner},
		{"wrong program", otherName + " 25", otherName,
			record{Verdict: "deny", Engine: "opa", Reason: "wrong_binary", Policy: "other"}},
		{"wrong name", undeclaredName + " 25", undeclaredName,
			record{Verdict: "deny", Engine: "dns", Reason: "undeclared_name", Mode: "dns"}},
		{"literal IPv4 address", deniedIPv4 + " 25", deniedIPv4,
			record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint", Address: deniedIPv4}},
		{"literal address, v4-mapped", "-m 198.51.100.90 25", "198.51.100.90",
			record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint", Address: "198.51.100.90"}},
		{"literal IPv6 address", "2001:db8:3::90 25", "2001:db8:3::90",
			record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint"}},
		{"literal address of an allowed name", allowedIPv4 + " 25", allowedIPv4,
			record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint"}},
		{"metadata address", testenv.Metadata + " 80", testenv.Metadata,
			record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint"}},
		{"IPv6 metadata address", metadataIPv6 + " 80", metadataIPv6,
			record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint"}},
		{"private address", privateName + " 25", privateName,
			record{Verdict: "deny", Engine: "ssrf", Reason: "private_address", Policy: "private", Address: privateIPv4}},
		{"private address in allowed_ips", privateOpenName + " 25", privateOpenName, banner},
	}
	var steps []step
	for _, tt := range tests {
		steps = append(steps, step{tt.name, client + " " + tt.args})
	}
	steps = append(steps, step{"wrong port", client + " " + allowedName + " 80"})
	r, results := f.steps(policy, steps)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			checkClient(t, results[tt.name], tt.want.Verdict == "allow")
			found := r.about(tt.host)
			if len(found) == 0 {
				t.Fatalf("no record: %+v", r.records)
			}
			tt.want.Binary = client
			found[0].check(t, tt.want)
		})
	}
	t.Run("wrong port", func(t *testing.T) {
		checkClient(t, results["wrong port"], false)
		r.about(allowedName)[1].check(t, record{Verdict: "deny", Engine: "opa", Reason: "wrong_port",
			Policy: "open", Port: 80, Binary: client})
	})
	for _, addr := range []string{deniedIPv4, "198.51.100.90", "2001:db8:3::90", testenv.Metadata, metadataIPv6, privateIPv4} {
		f.env.NothingArrived(t, testenv.To(netip.MustParseAddr(addr)))
	}
	for _, addr := range []string{allowedIPv4, allowedIPv6} {
		f.env.NothingArrived(t, testenv.ToPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 80)))
	}
	for name, want := range map[string]bool{otherName: false, undeclaredName: false, privateName: true, allowedName: true} {
		if asked := f.env.Asked(name) > 0; asked != want {
			t.Errorf("%s was looked up upstream: %v, want %v", name, asked, want)
		}
	}
}

// checkClient checks what the C client saw: the banner, or that there is no such
// name, or a connection that opens and is reset.
func checkClient(t *testing.T, got stepResult, allowed bool) {
	t.Helper()
	switch s := sawIn(t, got.output); {
	case allowed && (s.Stage != "done" || !strings.HasPrefix(s.Data, "220 ")):
		t.Errorf("the client saw %+v, want the banner", s)
	case !allowed && s.Stage != "resolve" && (s.Stage != "read" || s.Errno != int(unix.ECONNRESET)):
		t.Errorf("the client saw %+v, want a reset", s)
	}
}

// TestDeniedSoon measures in the program: from the connect to the end of the
// first read, nine times. The median is judged, for the machine may be busy.
func TestDeniedSoon(t *testing.T) {
	testenv.Require(t, "gcc", "musl-gcc", "curl")
	f := newFixture(t)
	libc, musl, probe, curl := f.tool(toolC), f.tool(toolMusl), f.tool(toolGo), realPath(t, "curl")
	policy := f.denials(libc, musl, probe, curl)
	const timed = ` -o /dev/null -w '{"ms":%{time_total}e3}' `
	tests := []struct{ name, command string }{
		{"wrong program, IPv4", libc + " -4 " + otherName + " 25"},
		{"wrong program, IPv6", libc + " -6 " + otherName + " 25"},
		{"wrong program, v4-mapped", libc + " -m " + otherName + " 25"},
		{"wrong program, static musl", musl + " " + otherName + " 25"},
		{"wrong program, Go", probe + " connect " + otherName + ":25"},
		{"wrong program, client speaks first", libc + " -s hello " + otherName + " 25"},
		{"wrong port", libc + " " + allowedName + " 80"},
		{"literal address", libc + " " + deniedIPv4 + " 25"},
		{"literal IPv6 address", libc + " 2001:db8:3::90 25"},
		{"metadata address", libc + " " + testenv.Metadata + " 80"},
		{"private address", libc + " " + privateName + " 25"},
		{"curl, name looked up and all", withoutProxy + curl + timed + "http://" + undeclaredName + "/"},
		{"curl, captured", withoutProxy + curl + timed + "https://" + otherName + ":25/"},
		{"curl, by the proxy", curl + timed + "https://" + otherName + ":25/"},
	}
	var steps []step
	for _, tt := range tests {
		steps = append(steps, step{tt.name, "for i in 1 2 3 4 5 6 7 8 9; do " + tt.command + " 2>/dev/null; echo; done"})
	}
	_, results := f.steps(policy, steps)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var took []float64
			for line := range strings.Lines(results[tt.name].output) {
				if strings.TrimSpace(line) != "" {
					took = append(took, sawIn(t, line).MS)
				}
			}
			slices.Sort(took)
			t.Logf("%v ms", took)
			if len(took) != 9 || took[4] > deniedSoon {
				t.Errorf("took %v ms, want a median of at most %d", took, deniedSoon)
			}
			if last := took[len(took)-1]; last > 10*deniedSoon {
				t.Errorf("one took %v ms: it waited for something", last)
			}
		})
	}
}
