package names

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/ringfence/ringfence/internal/testenv"
)

func TestServerAnswers(t *testing.T) {
	testenv.CheckLeaks(t, t.Name())
	s, _ := newServer(t)
	server, _ := serve(t, s)
	inClass := func(q *dns.Msg, class uint16) *dns.Msg { q.Question[0].Qclass = class; return q }
	withOpcode := func(q *dns.Msg, opcode int) *dns.Msg { q.Opcode = opcode; return q }
	const (
		v4 = "198.18.1.0"
		v6 = "fd52:696e:67fe:1::100"
	)
	tests := []struct {
		name  string
		query *dns.Msg
		rcode int
		want  string // the data of the only answer
		soa   bool
	}{
		{"A", question("example.com.", dns.TypeA), dns.RcodeSuccess, v4, false},
		{"AAAA", question("example.com.", dns.TypeAAAA), dns.RcodeSuccess, v6, false},
		{"mixed case", question("eXaMPle.CoM.", dns.TypeA), dns.RcodeSuccess, v4, false},
		{"HTTPS", question("example.com.", dns.TypeHTTPS), dns.RcodeSuccess, "", true},
		{"SVCB", question("example.com.", dns.TypeSVCB), dns.RcodeSuccess, "", true},
		{"TXT", question("example.com.", dns.TypeTXT), dns.RcodeSuccess, "", true},
		{"MX", question("example.com.", dns.TypeMX), dns.RcodeSuccess, "", true},
		{"SOA", question("example.com.", dns.TypeSOA), dns.RcodeSuccess, "", true},
		{"NULL", question("example.com.", dns.TypeNULL), dns.RcodeSuccess, "", true},
		{"unknown type", question("example.com.", 65280), dns.RcodeSuccess, "", true},
		{"undeclared", question("www.example.com.", dns.TypeA), dns.RcodeNameError, "", true},
		{"undeclared TXT", question("secret.evil.example.", dns.TypeTXT), dns.RcodeNameError, "", true},
		{"search list", question("example.com.corp.example.", dns.TypeA), dns.RcodeNameError, "", true},
		{"root", question(".", dns.TypeNS), dns.RcodeNameError, "", true},
		{"dot within a label", question(`example\.com.`, dns.TypeA), dns.RcodeNameError, "", true},
		{"dot at the end of a label", question(`example.com\..`, dns.TypeA), dns.RcodeNameError, "", true},
		{"odd bytes", question(`example\000.com.`, dns.TypeA), dns.RcodeNameError, "", true},
		{"Kelvin sign", question(`\226\132\170.Example.`, dns.TypeA), dns.RcodeNameError, "", true},
		{"address", question("192.0.2.1.", dns.TypeA), dns.RcodeNameError, "", true},
		{"reverse", question("0.1.18.198.in-addr.arpa.", dns.TypePTR), dns.RcodeNameError, "", true},
		{"ANY", question("example.com.", dns.TypeANY), dns.RcodeRefused, "", false},
		{"AXFR", question("example.com.", dns.TypeAXFR), dns.RcodeRefused, "", false},
		{"IXFR", new(dns.Msg).SetIxfr("example.com.", 1, "a.", "b."), dns.RcodeRefused, "", false},
		{"TKEY", question("example.com.", dns.TypeTKEY), dns.RcodeRefused, "", false},
		{"CH", inClass(question("version.bind.", dns.TypeTXT), dns.ClassCHAOS), dns.RcodeRefused, "", false},
		{"class ANY", inClass(question("example.com.", dns.TypeA), dns.ClassANY), dns.RcodeRefused, "", false},
		{"NOTIFY", withOpcode(question("example.com.", dns.TypeSOA), dns.OpcodeNotify), dns.RcodeNotImplemented, "", false},
		{"UPDATE", withOpcode(question("example.com.", dns.TypeSOA), dns.OpcodeUpdate), dns.RcodeNotImplemented, "", false},
		{"STATUS", withOpcode(question("example.com.", dns.TypeSOA), dns.OpcodeStatus), dns.RcodeNotImplemented, "", false},
	}
	for _, tt := range tests {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(tt.name+"/"+network, func(t *testing.T) {
				tt.query.Id = dns.Id()
				reply := ask1(t, network, server, tt.query)
				if reply.Rcode != tt.rcode {
					t.Errorf("rcode %s, want %s", dns.RcodeToString[reply.Rcode], dns.RcodeToString[tt.rcode])
				}
				if !reply.RecursionAvailable || reply.Truncated {
					t.Errorf("flags of %v", reply.MsgHdr)
				}
				var got string
				for _, rr := range reply.Answer {
					got += dns.Field(rr, 1)
					if h := rr.Header(); h.Name != tt.query.Question[0].Name || h.Ttl != answerTTL {
						t.Errorf("header of the answer: %v", h)
					}
				}
				if got != tt.want {
					t.Errorf("answer %q, want %q", got, tt.want)
				}
				if soa := len(reply.Ns) == 1 && reply.Ns[0].Header().Rrtype == dns.TypeSOA; soa != tt.soa {
					t.Errorf("authority %v, want a SOA: %v", reply.Ns, tt.soa)
				}
			})
		}
	}
}

func TestServerEDNS(t *testing.T) {
	s, _ := newServer(t)
	server, _ := serve(t, s)
	edns := func(version uint8, size uint16, options ...dns.EDNS0) *dns.Msg {
		q := question("example.com.", dns.TypeA)
		q.SetEdns0(size, true)
		q.Extra[0].(*dns.OPT).SetVersion(version)
		q.Extra[0].(*dns.OPT).Option = options
		return q
	}
	twice := edns(0, 1232)
	twice.Extra = append(twice.Extra, twice.Extra[0])
	tests := []struct {
		name    string
		query   *dns.Msg
		rcode   int
		answers int
		opt     bool
	}{
		{"none", question("example.com.", dns.TypeA), dns.RcodeSuccess, 1, false},
		{"version 0", edns(0, 4096), dns.RcodeSuccess, 1, true},
		{"tiny size", edns(0, 0), dns.RcodeSuccess, 1, true},
		{"cookie", edns(0, 1232, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"}), dns.RcodeSuccess, 1, true},
		{"version 1", edns(1, 1232), dns.RcodeBadVers, 0, true},
		{"two", twice, dns.RcodeFormatError, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reply := ask1(t, "udp", server, tt.query)
			if reply.Rcode != tt.rcode || len(reply.Answer) != tt.answers {
				t.Errorf("rcode %d with %d answers, want %d with %d", reply.Rcode, len(reply.Answer), tt.rcode, tt.answers)
			}
			opt := reply.IsEdns0()
			if (opt != nil) != tt.opt {
				t.Fatalf("OPT %v, want one: %v", opt, tt.opt)
			}
			if opt != nil && (opt.UDPSize() != ednsSize || !opt.Do() || opt.Version() != 0 || len(opt.Option) != 0) {
				t.Errorf("OPT %v", opt)
			}
		})
	}
}

func TestServerMalformed(t *testing.T) {
	s, sink := newServer(t)
	pack := func(q *dns.Msg) []byte {
		raw, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	good := pack(question("example.com.", dns.TypeA))
	edit := func(change func(b []byte)) []byte {
		b := slices.Clone(good)
		change(b)
		return b
	}
	const silence = -1
	tests := []struct {
		name  string
		query []byte
		rcode int
	}{
		{"empty", nil, silence},
		{"short", good[:11], silence},
		{"response", edit(func(b []byte) { b[2] |= 0x80 }), silence},
		{"header only", good[:12], dns.RcodeFormatError},
		{"no question", edit(func(b []byte) { b[5] = 0 }), dns.RcodeFormatError},
		{"two questions", edit(func(b []byte) { b[5] = 2 }), dns.RcodeRefused},
		{"65535 questions", edit(func(b []byte) { b[4], b[5] = 0xff, 0xff }), dns.RcodeRefused},
		{"many answers", edit(func(b []byte) { b[7] = 9 }), dns.RcodeFormatError},
		{"many additional", edit(func(b []byte) { b[11] = 3 }), dns.RcodeFormatError},
		{"cut in the name", good[:15], dns.RcodeFormatError},
		{"cut in the class", good[:len(good)-1], dns.RcodeFormatError},
		{"pointer to itself", append(slices.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"reserved label type", append(slices.Clone(good[:12]), 0x80, 1, 0, 0, 1, 0, 1), dns.RcodeFormatError},
		{"name too long", append(slices.Clone(good[:12]), append([]byte(strings.Repeat("\x01a", 150)), 0, 0, 1, 0, 1)...), dns.RcodeFormatError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw := s.respond(tt.query, netip.AddrPort{})
			if (raw == nil) != (tt.rcode == silence) {
				t.Fatalf("reply %x, want rcode %d", raw, tt.rcode)
			}
			if raw == nil {
				return
			}
			var reply dns.Msg
			if err := reply.Unpack(raw); err != nil {
				t.Fatal(err)
			}
			if reply.Rcode != tt.rcode || !reply.Response || !slices.Equal(raw[:2], tt.query[:2]) {
				t.Errorf("reply %v, want rcode %d", &reply, tt.rcode)
			}
		})
	}
	if s.refusals.flush(); len(sink.all()) > 0 {
		t.Errorf("records of messages without a question: %v", sink.all())
	}
	if got := s.Stats().Malformed; got != uint64(len(tests)) {
		t.Errorf("%d malformed messages were counted, want %d", got, len(tests))
	}
}

func TestRawName(t *testing.T) {
	for text, want := range map[string]string{
		".":                 "",
		"example.com.":      "example.com",
		`a\000b.`:           "a\x00b",
		`\255\128.`:         "\xff\x80",
		`a\.b.c.`:           `a\.b.c`,
		`a\\.b.`:            `a\\.b`,
		`a\ b\@c\"d\(e\;f.`: `a b@c"d(e;f`,
	} {
		if got := rawName(text); got != want {
			t.Errorf("rawName(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestServerLongestName(t *testing.T) {
	s, _ := newServer(t)
	for _, name := range []string{longest, "x" + longest[1:]} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeANY} {
			raw, err := question(strings.ToUpper(name)+".", qtype).SetEdns0(512, true).Pack()
			if err != nil {
				t.Fatal(err)
			}
			if reply := s.respond(raw, netip.AddrPort{}); len(reply) > maxReply || len(reply) < len(name) {
				t.Errorf("%d bytes for type %d", len(reply), qtype)
			}
		}
	}
}

func BenchmarkRespond(b *testing.B) {
	s, _ := newServer(b)
	for name, host := range map[string]string{"declared": "example.com.", "undeclared": "evil.example."} {
		raw, err := question(host, dns.TypeA).SetEdns0(1232, false).Pack()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s.respond(raw, netip.AddrPort{}) == nil {
					b.Fatal("silence")
				}
			}
		})
	}
}
