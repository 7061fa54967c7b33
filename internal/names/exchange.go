package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

const (
	queryRounds  = 2 // times that all servers are asked
	queryTimeout = 1500 * time.Millisecond
	// maxStrays is how many datagrams that do not belong to a query are read
	// before its server is given up: someone is guessing.
	maxStrays = 64
	// maxAliases is how long a CNAME chain may be; loops end here too.
	maxAliases = 8
	// maxFamilyAddrs is how many addresses of one family are used.
	maxFamilyAddrs = 8
)

// query asks the servers in turn for the records of one type, until one knows.
func (r *Resolver) query(ctx context.Context, host string, qtype uint16) outcome {
	servers := r.servers()
	if len(servers) == 0 {
		return outcome{err: ErrNoServers}
	}
	var errs []error // of the last round
	for range queryRounds {
		errs = errs[:0]
		for _, server := range servers {
			found, err := ask(ctx, server, host, qtype)
			if err == nil {
				return found
			}
			if ctx.Err() != nil {
				return outcome{err: fmt.Errorf("%w in time", ErrNoAnswer)}
			}
			errs = append(errs, fmt.Errorf("%s: %w", server, err))
		}
	}
	return outcome{err: fmt.Errorf("%w: %w", ErrNoAnswer, errors.Join(errs...))}
}

// ask puts one question to one server, by UDP and where that does not fit by
// TCP. The error means that another server may know better.
func ask(ctx context.Context, server netip.AddrPort, host string, qtype uint16) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	question := new(dns.Msg).SetQuestion(dns.Fqdn(host), qtype)
	question.SetEdns0(ednsSize, false)
	reply, err := exchange(ctx, "udp", server, question)
	if err == nil && reply.Truncated {
		reply, err = exchange(ctx, "tcp", server, question)
	}
	switch {
	case err != nil:
		return outcome{}, err
	case reply.Truncated:
		return outcome{}, errors.New("truncated over TCP")
	case reply.Rcode == dns.RcodeNameError:
		return outcome{err: ErrNoSuchHost}, nil
	case reply.Rcode != dns.RcodeSuccess:
		return outcome{}, fmt.Errorf("answered %s", dns.RcodeToString[reply.Rcode])
	}
	return addresses(reply, question.Question[0]), nil
}

// exchange sends a question from a new socket (so, with UDP, from a random port)
// and returns the reply to it, passing over whatever else comes in.
func exchange(ctx context.Context, network string, server netip.AddrPort, question *dns.Msg) (*dns.Msg, error) {
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer closeWith(ctx, raw)() // ends the reading below
	conn := dns.Conn{Conn: raw, UDPSize: maxQuery}
	if err := conn.WriteMsg(question); err != nil {
		return nil, err
	}
	for range maxStrays {
		text, err := conn.ReadMsgHeader(nil)
		if errors.Is(err, dns.ErrShortRead) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var reply dns.Msg
		if err := reply.Unpack(text); err == nil && answers(&reply, question) {
			return &reply, nil
		}
		if network != "udp" {
			return nil, errors.New("answered something else over TCP")
		}
	}
	return nil, fmt.Errorf("more than %d stray datagrams", maxStrays)
}

// answers reports whether a message is the reply to this very question.
func answers(reply, question *dns.Msg) bool {
	if !reply.Response || reply.Id != question.Id || reply.Opcode != dns.OpcodeQuery || len(reply.Question) != 1 {
		return false
	}
	got, want := reply.Question[0], question.Question[0]
	return got.Qtype == want.Qtype && got.Qclass == want.Qclass && sameName(got.Name, want.Name)
}

// addresses follows the aliases of a reply from the name that was asked, and
// returns the addresses at their end. Records of other names mean nothing.
func addresses(reply *dns.Msg, question dns.Question) outcome {
	owner, ttl := question.Name, maxTTL
	for range maxAliases + 1 {
		var alias *dns.CNAME
		var found []netip.Addr
		for _, rr := range reply.Answer {
			header := rr.Header()
			if header.Class != dns.ClassINET || !sameName(header.Name, owner) {
				continue
			}
			if cname, ok := rr.(*dns.CNAME); ok {
				if alias == nil {
					alias = cname
				}
			} else if addr, ok := addressOf(rr); ok && header.Rrtype == question.Qtype {
				found = append(found, addr)
				ttl = min(ttl, ttlOf(header))
			}
		}
		if len(found) > 0 {
			return outcome{addrs: found[:min(len(found), maxFamilyAddrs)], ttl: max(ttl, minTTL)}
		}
		if alias == nil {
			break
		}
		owner, ttl = alias.Target, min(ttl, ttlOf(alias.Header()))
	}
	return outcome{err: ErrNoSuchHost}
}

func addressOf(rr dns.RR) (netip.Addr, bool) {
	var addr netip.Addr
	var ok bool
	switch rr := rr.(type) {
	case *dns.A:
		addr, ok = netip.AddrFromSlice(rr.A)
	case *dns.AAAA:
		addr, ok = netip.AddrFromSlice(rr.AAAA)
	}
	return addr.Unmap(), ok
}

func ttlOf(header *dns.RR_Header) time.Duration { return time.Duration(header.Ttl) * time.Second }

func sameName(a, b string) bool { return dns.CanonicalName(a) == dns.CanonicalName(b) }
