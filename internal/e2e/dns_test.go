package e2e

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence/ringfence/internal/testenv"
)

// DNS numbers that a raw question has.
const (
	typeA     = "1"
	typeMX    = "15"
	typeTXT   = "16"
	typeAAAA  = "28"
	typeHTTPS = "65"
	typeANY   = "255"

	noError, nxDomain, refused = 0, 3, 5
)

// answered is what testdata/ask.py prints of one answer.
type answered struct {
	ID        int    `json:"id"`
	Rcode     int    `json:"rcode"`
	Truncated bool   `json:"truncated"`
	Answers   int    `json:"answers"`
	SameCase  bool   `json:"same_case"` // the question came back as it was written
	Source    string `json:"source"`    // as the program is told
}

func answersIn(t *testing.T, output string) []answered {
	t.Helper()
	var all []answered
	decoder := json.NewDecoder(strings.NewReader(output))
	for decoder.More() {
		var a answered
		if err := decoder.Decode(&a); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		all = append(all, a)
	}
	return all
}

// TestQuestions sends raw questions, to servers that do not exist: whoever is
// asked, the sandbox's own server answers, and the answer comes from the address
// that was asked.
func TestQuestions(t *testing.T) {
	f := newFixture(t)
	python := realPath(t, "/usr/bin/python3")
	ask := python + " " + f.copyOf("testdata/ask.py", "ask.py")
	const server, second, third = "192.0.2.53", "198.51.100.53", "203.0.113.99"
	const server6, second6 = "2001:db8:53::1", "2001:db8:53::2"
	one := func(source string, rcode, answers int) []answered {
		return []answered{{Rcode: rcode, Answers: answers, SameCase: true, Source: source}}
	}
	longest := strings.Repeat("a.", 119) + undeclaredName // 253 bytes
	tests := []struct {
		name, args string
		want       []answered
	}{
		{"A", "udp " + server + " " + allowedName + " " + typeA, one(server, noError, 1)},
		{"AAAA", "udp " + server + " " + allowedName + " " + typeAAAA, one(server, noError, 1)},
		{"over TCP", "tcp " + server + " " + allowedName + " " + typeA, one(server, noError, 1)},
		{"over IPv6", "udp " + server6 + " " + allowedName + " " + typeA, one(server6, noError, 1)},
		{"over TCP and IPv6", "tcp " + server6 + " " + allowedName + " " + typeAAAA, one(server6, noError, 1)},
		{"over v4-mapped", "udp ::ffff:" + server + " " + allowedName + " " + typeA, one("::ffff:"+server, noError, 1)},
		{"the sandbox's own", "udp 127.0.0.1 " + allowedName + " " + typeA, one("127.0.0.1", noError, 1)},
		{"0x20", "udp " + server + " aLLoWeD.tEsT " + typeA, one(server, noError, 1)},
		{"type without data", "udp " + server + " " + allowedName + " " + typeMX, one(server, noError, 0)},
		{"no HTTPS record, so no ECH", "udp " + server + " " + allowedName + " " + typeHTTPS, one(server, noError, 0)},
		{"ANY", "udp " + server + " " + allowedName + " " + typeANY, one(server, refused, 0)},
		{"undeclared", "udp " + server + " " + undeclaredName + " " + typeA, one(server, nxDomain, 0)},
		{"undeclared, over TCP", "tcp " + server + " " + undeclaredName + " " + typeA, one(server, nxDomain, 0)},
		{"parent of an allowed name", "udp " + server + " test " + typeA, one(server, nxDomain, 0)},
		{"child of an allowed name", "udp " + server + " c2VjcmV0." + allowedName + " " + typeTXT, one(server, nxDomain, 0)},
		{"tunnel in labels", "udp " + server + " c2VjcmV0." + undeclaredName + " " + typeTXT, one(server, nxDomain, 0)},
		{"longest name", "udp " + server + " " + longest + " " + typeA, one(server, nxDomain, 0)},
		{"three servers from one socket", "udp " + server + " " + allowedName + " " + typeA + " " + second + " " + third,
			[]answered{{ID: 0, Answers: 1, SameCase: true, Source: server}, {ID: 1, Answers: 1, SameCase: true, Source: second}, {ID: 2, Answers: 1, SameCase: true, Source: third}}},
		{"two servers from one IPv6 socket", "udp " + server6 + " " + allowedName + " " + typeAAAA + " " + second6,
			[]answered{{ID: 0, Answers: 1, SameCase: true, Source: server6}, {ID: 1, Answers: 1, SameCase: true, Source: second6}}},
	}
	var steps []step
	for _, tt := range tests {
		steps = append(steps, step{tt.name, ask + " " + tt.args})
	}
	r, results := f.steps(f.allow([]int{25}, python), steps)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := answersIn(t, results[tt.name].output)
			// No answer is ever long enough to be truncated.
			byID := cmpopts.SortSlices(func(a, b answered) bool { return a.ID < b.ID })
			if diff := cmp.Diff(tt.want, got, byID); diff != "" {
				t.Errorf("answers (-want +got):\n%s%s", diff, results[tt.name].output)
			}
		})
	}
	for host, want := range map[string]record{
		undeclaredName:               {Reason: "undeclared_name", Mode: "dns"},
		"c2VjcmV0." + undeclaredName: {Reason: "undeclared_name", Mode: "dns"},
		"c2VjcmV0." + allowedName:    {Reason: "undeclared_name", Mode: "dns"},
		"test":                       {Reason: "undeclared_name", Mode: "dns"},
		longest:                      {Reason: "undeclared_name", Mode: "dns"},
		allowedName:                  {Reason: "question_refused", Mode: "dns"},
	} {
		found := r.about(host)
		if len(found) == 0 {
			t.Errorf("no record about %s", host)
			continue
		}
		want.Verdict, want.Engine, want.Binary = "deny", "dns", python
		found[0].check(t, want)
	}
	f.nothingAsked(t)
}

// nothingAsked checks that no question and no packet left the agent.
func (f *fixture) nothingAsked(t *testing.T) {
	t.Helper()
	if queries := f.env.Queries(); len(queries) != 0 {
		t.Errorf("asked upstream: %+v", queries)
	}
	f.env.NothingArrived(t, func(testenv.Flow) bool { return true })
}

// TestResolvers looks names up by every resolver that programs have, without
// connecting to them: so nothing is asked upstream.
func TestResolvers(t *testing.T) {
	testenv.Require(t, "gcc", "musl-gcc", "node", "getent")
	f := newFixture(t)
	libc, musl, node, python := f.tool(toolC), f.tool(toolMusl), realPath(t, "node"), realPath(t, "/usr/bin/python3")
	cares := f.file("resolve.js", `const dns = require('dns')
dns.setServers(process.argv.slice(3))
for (const resolve of [dns.resolve4, dns.resolve6])
	resolve(process.argv[2], (e, addrs) => console.log(e ? e.code : addrs.join('\n')))
`, 0o644)
	const both = "198.18. fd52:696e:67fe:1:" // how synthetic addresses of the two families start
	tests := []struct{ name, command, want string }{
		{"getaddrinfo of glibc", libc + " -l " + allowedName + " 25", both},
		{"getaddrinfo of musl", musl + " -l " + allowedName + " 25", both},
		{"python", python + ` -c 'import socket; print("\n".join(sorted({a[4][0] for a in socket.getaddrinfo("allowed.test", 25)})))'`, both},
		{"getent", "getent ahosts " + allowedName, both},
		{"c-ares", node + " " + cares + " " + allowedName + " 198.51.100.53", both},
		{"c-ares over IPv6", node + " " + cares + " " + allowedName + " [2001:db8:53::1]", both},
		{"upper case", libc + " -l ALLOWED.Test 25", both},
		{"final dot", libc + " -l " + allowedName + ". 25", both},
		{"search list", "LOCALDOMAIN='corp.example open.test' " + libc + " -l www 25", both},
		{"search list and ndots", "RES_OPTIONS=ndots:5 LOCALDOMAIN=corp.example " + libc + " -l " + allowedName + " 25", both},
		{"over TCP only", "RES_OPTIONS=use-vc " + libc + " -l " + allowedName + " 25", both},
		{"unknown name", libc + " -l " + undeclaredName + " 25", ""},
		{"unknown name, musl", musl + " -l " + undeclaredName + " 25", ""},
		{"unknown name, c-ares", node + " " + cares + " " + undeclaredName + " 198.51.100.53", "ENOTFOUND"},
	}
	var steps []step
	for _, tt := range tests {
		steps = append(steps, step{tt.name, tt.command})
	}
	r, results := f.steps(f.policy(allowBlock("allowed", allowedName, []int{25}, libc)+
		allowBlock("open", "*.open.test", []int{25}, libc)), steps)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := results[tt.name]
			for want := range strings.FieldsSeq(tt.want) {
				if !strings.Contains(got.output, want) {
					t.Errorf("status %d, %q, want %q in it", got.status, got.output, want)
				}
			}
			if tt.want == "" && got.status == 0 {
				t.Errorf("found %q", got.output)
			}
		})
	}
	for _, host := range []string{"www.corp.example", allowedName + ".corp.example", undeclaredName} {
		if found := r.about(host); len(found) == 0 {
			t.Errorf("no record about %s", host)
		} else {
			found[0].check(t, record{Verdict: "deny", Engine: "dns", Reason: "undeclared_name", Mode: "dns"})
		}
	}
	f.nothingAsked(t)
}

// TestLookedUpAfterAllow: a declared name is asked upstream for the connection that
// the policy allows, and not before.
func TestLookedUpAfterAllow(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	client, denied := f.tool(toolC), f.copyOf(f.tool(toolC), "denied")
	policy := f.allow([]int{25}, client)
	f.sh(policy, denied+" "+allowedName+" 25; "+client+" "+allowedName+" 26; "+client+" -l "+allowedName+" 25")
	f.nothingAsked(t)
	r := f.sh(policy, client+" "+allowedName+" 25 && "+client+" "+allowedName+" 25")
	if r.status != 0 {
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	want := []testenv.Query{{Name: allowedName, Type: "A", Transport: "udp"}, {Name: allowedName, Type: "AAAA", Transport: "udp"}}
	byType := cmpopts.SortSlices(func(a, b testenv.Query) bool { return a.Type < b.Type })
	if diff := cmp.Diff(want, f.env.Queries(), byType); diff != "" {
		t.Errorf("asked upstream (-want +got):\n%s", diff)
	}
}

// TestEncryptedDNS: DoT and DoH are connections like others.
func TestEncryptedDNS(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	client := f.tool(toolC)
	r := f.sh(f.allow([]int{25}, client), client+" 198.51.100.53 853; "+client+" 198.51.100.54 443")
	r.one(t, "198.51.100.53").check(t, record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint", Port: 853})
	r.one(t, "198.51.100.54").check(t, record{Verdict: "deny", Engine: "opa", Reason: "no_endpoint", Port: 443})
	f.env.NothingArrived(t, testenv.To(netip.MustParseAddr("198.51.100.53")))
	f.env.NothingArrived(t, testenv.To(netip.MustParseAddr("198.51.100.54")))
}
