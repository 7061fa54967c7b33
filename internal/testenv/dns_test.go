package testenv

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestDNS(t *testing.T) {
	env := New(t)
	env.Zone("allowed.test", addr("198.51.100.10"), addr("2001:db8::10"))
	env.Zone("empty.test")
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
	}
	env.Zone("many.test", many...)
	for _, record := range []string{"www.test. 5 IN CNAME allowed.test.", "loop.test. 5 IN CNAME loop.test."} {
		if err := env.Record(record); err != nil {
			t.Fatal(err)
		}
	}

	for _, test := range []struct {
		name      string
		question  string
		qtype     uint16
		network   string
		rcode     int
		answers   int
		truncated bool
	}{
		{"address", "allowed.test.", dns.TypeA, "udp", dns.RcodeSuccess, 1, false},
		{"v6 address over tcp", "allowed.test.", dns.TypeAAAA, "tcp", dns.RcodeSuccess, 1, false},
		{"case is ignored", "AlloWed.tEst.", dns.TypeA, "udp", dns.RcodeSuccess, 1, false},
		{"no data", "empty.test.", dns.TypeA, "udp", dns.RcodeSuccess, 0, false},
		{"no name", "other.test.", dns.TypeA, "udp", dns.RcodeNameError, 0, false},
		{"alias", "www.test.", dns.TypeA, "udp", dns.RcodeSuccess, 2, false},
		{"alias to itself", "loop.test.", dns.TypeA, "udp", dns.RcodeSuccess, 16, false},
		{"too long for udp", "many.test.", dns.TypeA, "udp", dns.RcodeSuccess, 30, true},
		{"not for tcp", "many.test.", dns.TypeA, "tcp", dns.RcodeSuccess, 100, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			reply := ask(t, env, test.network, new(dns.Msg).SetQuestion(test.question, test.qtype))
			type outcome struct {
				Rcode, Answers int
				Truncated      bool
			}
			want := outcome{test.rcode, test.answers, test.truncated}
			got := outcome{reply.Rcode, len(reply.Answer), reply.Truncated}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("reply (-want +got):\n%s\n%v", diff, reply)
			}
		})
	}
	if got := env.Asked("allowed.test"); got != 3 {
		t.Errorf("Asked(allowed.test) = %d, want 3", got)
	}
	if got := env.Asked("never.test"); got != 0 {
		t.Errorf("Asked(never.test) = %d, want 0", got)
	}
	want := Query{Name: "allowed.test", Type: "AAAA", Transport: "tcp"}
	if diff := cmp.Diff(want, env.Queries()[1]); diff != "" {
		t.Errorf("second query (-want +got):\n%s", diff)
	}
}

// TestDNSAnswersEverywhere asks servers at several addresses: a query that went
// to the wrong one is answered too, and logged.
func TestDNSAnswersEverywhere(t *testing.T) {
	env := New(t)
	env.Zone("allowed.test", addr("198.51.100.10"))
	for _, server := range []string{"203.0.113.53:53", "[2001:db8::53]:53", "10.0.0.2:53"} {
		conn, err := env.Dial(t.Context(), "udp", addrPort(server))
		if err != nil {
			t.Fatal(err)
		}
		reply := exchange(t, &dns.Conn{Conn: conn}, new(dns.Msg).SetQuestion("allowed.test.", dns.TypeA))
		if len(reply.Answer) != 1 {
			t.Errorf("answer of %s = %v", server, reply)
		}
	}
}

func TestRecordErrors(t *testing.T) {
	env := &Env{dns: &dnsServer{records: make(map[string][]dns.RR)}}
	for _, text := range []string{"", "; a comment", "allowed.test. IN A not-an-address"} {
		if err := env.Record(text); err == nil {
			t.Errorf("Record(%q) succeeded", text)
		}
	}
}

func ask(t *testing.T, env *Env, network string, question *dns.Msg) *dns.Msg {
	t.Helper()
	conn, err := env.Dial(t.Context(), network, env.Resolver())
	if err != nil {
		t.Fatal(err)
	}
	return exchange(t, &dns.Conn{Conn: conn}, question)
}

func exchange(t *testing.T, conn *dns.Conn, question *dns.Msg) *dns.Msg {
	t.Helper()
	defer conn.Close()
	reply, _, err := new(dns.Client).ExchangeWithConn(question, conn)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}
