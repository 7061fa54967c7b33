package names

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

func TestResolveAliasBound(t *testing.T) {
	chain := func(hops int) []string {
		lines := []string{fmt.Sprintf("n%d.example. 60 A 192.0.2.1", hops)}
		for i := range hops {
			lines = append(lines, fmt.Sprintf("n%d.example. 60 CNAME n%d.example.", i, i+1))
		}
		return lines
	}
	for hops, want := range map[int]error{maxAliases: nil, maxAliases + 1: ErrNoSuchHost} {
		r := newResolver(t, ResolverConfig{}, startUpstream(t, zoneFile(t, false, chain(hops)...)))
		if _, err := r.Resolve(t.Context(), "n0.example"); !errors.Is(err, want) {
			t.Errorf("%d aliases: %v, want %v", hops, err, want)
		}
	}
}

func TestResolveStrayReplies(t *testing.T) {
	genuine := zoneFile(t, false, "www.example. 60 A 192.0.2.1")
	lie, err := dns.NewRR("www.example. 60 A 192.0.2.66")
	if err != nil {
		t.Fatal(err)
	}
	forged := func(change func(*dns.Msg)) handle {
		return func(network string, req *dns.Msg) [][]byte {
			reply := new(dns.Msg).SetReply(req)
			reply.Answer = []dns.RR{lie}
			change(reply)
			return append([][]byte{mustPack(reply)}, genuine(network, req)...)
		}
	}
	tests := map[string]handle{
		"id":          forged(func(m *dns.Msg) { m.Id++ }),
		"no response": forged(func(m *dns.Msg) { m.Response = false }),
		"opcode":      forged(func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }),
		"no question": forged(func(m *dns.Msg) { m.Question = nil }),
		"other name": forged(func(m *dns.Msg) {
			m.Question = []dns.Question{{Name: "evil.example.", Qtype: m.Question[0].Qtype, Qclass: 1}}
		}),
		"other type": forged(func(m *dns.Msg) { m.Question = []dns.Question{{Name: "www.example.", Qtype: dns.TypeTXT, Qclass: 1}} }),
		"other class": forged(func(m *dns.Msg) {
			m.Question = []dns.Question{{Name: "www.example.", Qtype: m.Question[0].Qtype, Qclass: 3}}
		}),
		"two questions": forged(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
		"malformed": func(network string, req *dns.Msg) [][]byte {
			cut := genuine(network, req)[0]
			return [][]byte{{}, {1}, cut[:len(cut)-3], slices.Repeat([]byte{0xc0}, 40), cut}
		},
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			r := newResolver(t, ResolverConfig{}, startUpstream(t, h))
			got, err := r.Resolve(t.Context(), "www.example")
			if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
				t.Errorf("Resolve = %v, %v", got, err)
			}
		})
	}
	t.Run("a flood of them", func(t *testing.T) {
		r := newResolver(t, ResolverConfig{}, startUpstream(t, func(_ string, req *dns.Msg) [][]byte {
			reply := new(dns.Msg).SetReply(req)
			reply.Id++
			return slices.Repeat([][]byte{mustPack(reply)}, maxStrays)
		}))
		if got, err := r.Resolve(t.Context(), "www.example"); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("Resolve = %v, %v; want ErrNoAnswer", got, err)
		}
	})
}

func TestResolveTruncated(t *testing.T) {
	whole := zoneFile(t, false, "www.example. 60 A 192.0.2.1")
	truncated := func(_ string, req *dns.Msg) [][]byte {
		reply := new(dns.Msg).SetReply(req)
		reply.Truncated = true
		lie, _ := dns.NewRR("www.example. 60 A 192.0.2.66") // part of an answer is none
		reply.Answer = []dns.RR{lie}
		return [][]byte{mustPack(reply)}
	}
	t.Run("goes on by TCP", func(t *testing.T) {
		r := newResolver(t, ResolverConfig{}, startUpstream(t, func(network string, req *dns.Msg) [][]byte {
			if network == "udp" {
				return truncated(network, req)
			}
			return whole(network, req)
		}))
		if got, err := r.Resolve(t.Context(), "www.example"); err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
			t.Errorf("Resolve = %v, %v", got, err)
		}
	})
	t.Run("also by TCP", func(t *testing.T) {
		r := newResolver(t, ResolverConfig{}, startUpstream(t, truncated))
		if got, err := r.Resolve(t.Context(), "www.example"); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("Resolve = %v, %v; want ErrNoAnswer", got, err)
		}
	})
	t.Run("many addresses are cut", func(t *testing.T) {
		var lines []string
		for i := range 3 * maxFamilyAddrs {
			lines = append(lines, fmt.Sprintf("www.example. 60 A 192.0.2.%d", i))
		}
		r := newResolver(t, ResolverConfig{}, startUpstream(t, zoneFile(t, false, lines...)))
		if got, err := r.Resolve(t.Context(), "www.example"); err != nil || len(got) != maxFamilyAddrs {
			t.Errorf("Resolve = %d addresses, %v; want %d", len(got), err, maxFamilyAddrs)
		}
	})
}

func FuzzAddresses(f *testing.F) {
	q := question("www.example.", dns.TypeA)
	q.Id = 1
	for _, lines := range [][]string{
		{"www.example. 60 A 192.0.2.1"},
		{"www.example. 60 CNAME b.example.", "b.example. 60 A 192.0.2.1"},
		{"www.example. 60 CNAME www.example."},
	} {
		f.Add(zoneFile(f, true, lines...)("udp", q)[0])
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var reply dns.Msg
		if reply.Unpack(raw) != nil || !answers(&reply, q) {
			return
		}
		found := addresses(&reply, q.Question[0])
		if (found.err == nil) != (len(found.addrs) > 0) || len(found.addrs) > maxFamilyAddrs {
			t.Fatalf("addresses %v with error %v", found.addrs, found.err)
		}
		if found.err == nil && (found.ttl < minTTL || found.ttl > maxTTL) {
			t.Errorf("TTL %s", found.ttl)
		}
		for _, addr := range found.addrs {
			if !addr.Is4() || !slices.ContainsFunc(reply.Answer, func(rr dns.RR) bool {
				a, ok := rr.(*dns.A)
				return ok && a.A.String() == addr.String()
			}) {
				t.Errorf("address %s is in no A record of %v", addr, &reply)
			}
		}
	})
}
