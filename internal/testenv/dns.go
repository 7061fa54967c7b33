package testenv

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// defaultTTL is the TTL in seconds of the records that Zone makes.
const defaultTTL = 60

// maxLog bounds the logs of queries, requests and flows.
const maxLog = 1 << 16

// Query is one question that reached the DNS server.
type Query struct {
	Name      string // lower case, without the final dot
	Type      string // "A", "AAAA" …
	Transport string // "udp" or "tcp"
}

// dnsServer is authoritative for everything: what no zone has is NXDOMAIN.
type dnsServer struct {
	mu      sync.Mutex
	records map[string][]dns.RR // by lower-case name with final dot
	queries []Query             // at most maxLog
}

// startDNS serves UDP and TCP on every address: the library answers from the
// address that was asked.
func (e *Env) startDNS() error {
	e.dns = &dnsServer{records: make(map[string][]dns.RR)}
	listener, err := e.Listen("tcp", fmt.Sprintf(":%d", PortDNS))
	if err != nil {
		return fmt.Errorf("listen for DNS: %w", err)
	}
	packets, err := e.listenPacket(PortDNS)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	for _, server := range []*dns.Server{
		{Listener: listener, Handler: e.dns},
		{PacketConn: packets, Handler: e.dns},
	} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		e.wg.Go(func() { _ = server.ActivateAndServe() }) // ends with Shutdown
		<-started
		e.atClose(server.Shutdown)
	}
	return nil
}

// ServeDNS answers one question. It follows CNAMEs within its own records.
func (s *dnsServer) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg).SetReply(request)
	reply.Authoritative = true
	if len(request.Question) == 1 {
		question := request.Question[0]
		s.log(question, w.RemoteAddr().Network())
		s.answer(reply, question)
	} else {
		reply.Rcode = dns.RcodeFormatError
	}
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if opt := request.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
			reply.SetEdns0(opt.UDPSize(), false)
		}
		reply.Truncate(size)
	}
	_ = w.WriteMsg(reply) // the client may be gone
}

func (s *dnsServer) log(question dns.Question, transport string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queries) < maxLog {
		name := strings.TrimSuffix(strings.ToLower(question.Name), ".")
		s.queries = append(s.queries, Query{Name: name, Type: dns.TypeToString[question.Qtype], Transport: transport})
	}
}

func (s *dnsServer) answer(reply *dns.Msg, question dns.Question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.ToLower(question.Name)
	if _, ok := s.records[name]; !ok {
		reply.Rcode = dns.RcodeNameError
		return
	}
	const maxChain = 16 // CNAMEs that a test may also make a loop of
	for range maxChain {
		next := ""
		for _, rr := range s.records[name] {
			cname, isCNAME := rr.(*dns.CNAME)
			if rr.Header().Rrtype != question.Qtype && !isCNAME {
				continue
			}
			reply.Answer = append(reply.Answer, dns.Copy(rr))
			if isCNAME && question.Qtype != dns.TypeCNAME {
				next = strings.ToLower(cname.Target)
			}
		}
		if next == "" {
			return
		}
		name = next
	}
}

// Zone makes name resolve to addrs, in place of what it had. Without addrs the
// name exists and has no addresses.
func (e *Env) Zone(name string, addrs ...netip.Addr) {
	records := make([]dns.RR, len(addrs))
	for i, addr := range addrs {
		header := dns.RR_Header{Name: dns.Fqdn(name), Class: dns.ClassINET, Ttl: defaultTTL}
		if addr.Is4() {
			header.Rrtype = dns.TypeA
			records[i] = &dns.A{Hdr: header, A: addr.AsSlice()}
		} else {
			header.Rrtype = dns.TypeAAAA
			records[i] = &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()}
		}
	}
	e.dns.mu.Lock()
	defer e.dns.mu.Unlock()
	e.dns.records[strings.ToLower(dns.Fqdn(name))] = records
}

// Record adds one record in the form of a zone file, for what Zone cannot say:
// "www.allowed.test. 5 IN CNAME allowed.test."
func (e *Env) Record(text string) error {
	rr, err := dns.NewRR(text)
	if err != nil {
		return fmt.Errorf("parse record: %w", err)
	}
	if rr == nil {
		return errors.New("parse record: empty")
	}
	e.dns.mu.Lock()
	defer e.dns.mu.Unlock()
	name := strings.ToLower(rr.Header().Name)
	e.dns.records[name] = append(e.dns.records[name], rr)
	return nil
}

// Queries returns the questions that reached the DNS server so far, at most the
// first 65,536.
func (e *Env) Queries() []Query {
	e.dns.mu.Lock()
	defer e.dns.mu.Unlock()
	return append([]Query(nil), e.dns.queries...)
}

// Asked returns how many questions for name, of any type, reached the DNS server.
func (e *Env) Asked(name string) int {
	n := 0
	for _, query := range e.Queries() {
		if query.Name == strings.ToLower(name) {
			n++
		}
	}
	return n
}
