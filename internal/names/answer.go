package names

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	dnsHeaderSize = 12
	answerTTL     = 60 // seconds; an assignment outlives it anyway
	// ednsSize is the datagram that we say we take (the DNS Flag Day value).
	ednsSize = 1232
	// maxReply is what any client takes. One question and one record always fit,
	// so no reply is ever truncated, and a client's own size does not matter.
	maxReply = dns.MinMsgSize
)

// respond returns the reply to one message of any content; nil is silence.
func (s *Server) respond(query []byte, from netip.AddrPort) []byte {
	s.queries.Add(1)
	if len(query) < dnsHeaderSize || query[2]&0x80 != 0 {
		s.malformed.Add(1) // to answer an answer makes a loop
		return nil
	}
	if rcode := judgeHeader(query); rcode != dns.RcodeSuccess {
		s.malformed.Add(1)
		return bareReply(query, rcode)
	}
	var req dns.Msg
	if err := req.Unpack(query); err != nil || len(req.Question) != 1 {
		s.malformed.Add(1)
		return bareReply(query, dns.RcodeFormatError)
	}
	reply := new(dns.Msg).SetReply(&req)
	reply.Compress = true
	reply.Authoritative = true
	reply.RecursionAvailable = true // or glibc takes an empty answer for a referral
	if s.negotiate(reply, &req) {
		s.answer(reply, from)
	}
	out, err := reply.Pack()
	if err != nil || len(out) > maxReply {
		return bareReply(query, dns.RcodeServerFailure)
	}
	return out
}

// judgeHeader refuses by the fixed header alone what is not worth parsing.
func judgeHeader(query []byte) int {
	count := func(section int) uint16 { return binary.BigEndian.Uint16(query[4+2*section:]) }
	switch {
	case query[2]>>3&0xf != dns.OpcodeQuery:
		return dns.RcodeNotImplemented
	case count(0) > 1:
		return dns.RcodeRefused
	case count(0) == 0, count(1) > 1, count(2) > 1, count(3) > 2:
		return dns.RcodeFormatError
	}
	return dns.RcodeSuccess
}

// bareReply is a header without sections, for a query that was not understood.
func bareReply(query []byte, rcode int) []byte {
	reply := make([]byte, dnsHeaderSize)
	copy(reply, query[:2])            // id
	reply[2] = 0x80 | query[2]&0x79   // a response, with the query's opcode and RD
	reply[3] = 0x80 | byte(rcode)&0xf // recursion available
	return reply
}

// negotiate echoes EDNS and reports whether the question is to be answered.
func (s *Server) negotiate(reply, req *dns.Msg) bool {
	var opt *dns.OPT
	for _, rr := range req.Extra {
		o, ok := rr.(*dns.OPT)
		if !ok {
			continue
		}
		if opt != nil {
			reply.Rcode = dns.RcodeFormatError
			return false
		}
		opt = o
	}
	if opt == nil {
		return true
	}
	reply.SetEdns0(ednsSize, opt.Do())
	if opt.Version() != 0 {
		reply.Rcode = dns.RcodeBadVers
		return false
	}
	return true
}

// answer fills in the reply to a well-formed question.
func (s *Server) answer(reply *dns.Msg, from netip.AddrPort) {
	q := reply.Question[0]
	if q.Qclass != dns.ClassINET || isMetaType(q.Qtype) {
		reply.Rcode = dns.RcodeRefused
		s.refuse(q, flow.ReasonQuestionRefused, from)
		return
	}
	// A name with odd bytes has escapes here, which no host has.
	host, err := flow.CanonicalHost(strings.TrimSuffix(q.Name, "."))
	if err != nil || !s.cfg.Zone.Declares(host) {
		// Not REFUSED, which would keep a resolver from going on in its search list.
		reply.Rcode = dns.RcodeNameError
		reply.Ns = []dns.RR{soa()}
		s.refuse(q, flow.ReasonUndeclaredName, from)
		return
	}
	if q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA {
		reply.Ns = []dns.RR{soa()} // it exists, without data of this type
		return
	}
	v4, v6, err := s.cfg.Pool.Assign(host)
	if err != nil {
		reply.Rcode = dns.RcodeServerFailure
		s.refuse(q, flow.ReasonNamePoolExhausted, from)
		return
	}
	// The owner is the question's name as it was written: clients that mix case
	// against spoofing (0x20) compare it.
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: answerTTL}
	if q.Qtype == dns.TypeA {
		reply.Answer = []dns.RR{&dns.A{Hdr: header, A: v4.AsSlice()}}
	} else {
		reply.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: v6.AsSlice()}}
	}
}

// refuse notes a refused question for the records.
func (s *Server) refuse(q dns.Question, reason flow.Reason, from netip.AddrPort) {
	s.refused.Add(1)
	var asker *flow.Identity
	if s.cfg.Askers != nil {
		asker = s.cfg.Askers.Asker(from)
	}
	record := flow.Record{
		Sandbox:    s.cfg.Sandbox,
		Engine:     flow.EngineDNS,
		Reason:     reason,
		Generation: s.cfg.Generation(),
		Mode:       flow.ModeDNS,
		Host:       rawName(q.Name),
	}
	if reason == flow.ReasonQuestionRefused {
		record.Detail = fmt.Sprintf("class %s, type %s", dns.Class(q.Qclass), dns.Type(q.Qtype))
	}
	record.SetIdentity(asker)
	s.refusals.add(strings.ToLower(q.Name), record)
}

// isMetaType reports whether a type asks for something else than records of one
// name: OPT, and the range of ANY, AXFR and their like (RFC 6895).
func isMetaType(t uint16) bool {
	return t == dns.TypeNone || t == dns.TypeOPT || 128 <= t && t <= 255
}

// soa makes a negative answer cacheable. Its owner is the root: for a sandbox
// there is no other authority.
func soa() dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: answerTTL},
		Ns:  "ringfence.invalid.", Mbox: "nobody.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: answerTTL,
	}
}

// rawName undoes the escapes of the DNS text form, so that a record holds the
// bytes that were asked. A dot or backslash within a label keeps its own, or
// two names would read alike.
func rawName(text string) string {
	text = strings.TrimSuffix(text, ".")
	if !strings.Contains(text, `\`) {
		return text
	}
	raw := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			raw = append(raw, text[i])
			continue
		}
		if i+4 <= len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 10, 8); err == nil {
				raw = append(raw, byte(n))
				i += 3
				continue
			}
		}
		i++
		if text[i] == '.' || text[i] == '\\' {
			raw = append(raw, '\\')
		}
		raw = append(raw, text[i])
	}
	return string(raw)
}
