package names

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/ringfence/ringfence/internal/flow"
)

// FuzzRespond: any message gets a reply of bounded size that a client can read, or
// silence where it is no query. What is answered stands for the name that was asked.
func FuzzRespond(f *testing.F) {
	s, _ := newServer(f)
	for _, q := range []*dns.Msg{
		question("example.com.", dns.TypeA), question(longest+".", dns.TypeAAAA),
		question("evil.example.", dns.TypeTXT), question("example.com.", dns.TypeANY),
		new(dns.Msg).SetIxfr("example.com.", 1, "a.", "b."), question("example.com.", dns.TypeA).SetEdns0(512, true),
	} {
		raw, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	// Two questions, a pointer to itself, a name that is cut, labels of odd bytes.
	for _, raw := range []string{
		"\x00\x01\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01\x01b\x00\x00\x01\x00\x01",
		"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01",
		"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x3fexample",
		"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0b\x1b[31m.\\\x00\xff\n\x9b\x03com\x00\x00\x01\x00\x01",
		"\x00\x01\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01",
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		raw := s.respond(query, netip.AddrPort{})
		if raw == nil {
			if len(query) >= dnsHeaderSize && query[2]&0x80 == 0 {
				t.Error("silence for a query")
			}
			return
		}
		if len(raw) > maxReply {
			t.Errorf("a reply of %d bytes", len(raw))
		}
		var reply dns.Msg
		if err := reply.Unpack(raw); err != nil {
			t.Fatalf("unpack reply %x: %v", raw, err)
		}
		if !reply.Response || !slices.Equal(raw[:2], query[:2]) {
			t.Errorf("not the reply to this query: %v", &reply)
		}
		checkByAnother(t, query, raw)
		for _, rr := range reply.Answer {
			host, err := flow.CanonicalHost(strings.TrimSuffix(rr.Header().Name, "."))
			addr, ok := addressOf(rr)
			named, assigned := s.cfg.Pool.Host(addr)
			if err != nil || !s.cfg.Zone.Declares(host) || !ok || !assigned || named != host {
				t.Errorf("answer %v, which stands for %q", rr, named)
			}
		}
	})
}

// checkByAnother reads the query and the reply by another parser than the server's, as
// a client has one: it finds no other question, and the reply to it.
func checkByAnother(t *testing.T, query, reply []byte) {
	t.Helper()
	var parser dnsmessage.Parser
	if _, err := parser.Start(query); err != nil {
		t.Fatalf("the query %x: %v", query, err)
	}
	asked, err := parser.Question()
	if err != nil && !errors.Is(err, dnsmessage.ErrSectionDone) {
		return // a dot within a label is an error there
	}
	var said dnsmessage.Message
	if err := said.Unpack(reply); err != nil {
		t.Fatalf("the reply %x: %v", reply, err)
	}
	if !said.Response || len(said.Questions) > 1 || len(said.Answers) > 1 || said.Truncated {
		t.Errorf("the reply says %+v", said)
	}
	if len(said.Questions) == 0 {
		return
	}
	if asked != said.Questions[0] {
		t.Errorf("%v was asked, %v answered", asked, said.Questions[0])
	}
	for _, answer := range said.Answers {
		if answer.Header.Name != said.Questions[0].Name || answer.Header.Type != said.Questions[0].Type {
			t.Errorf("%v in answer to %v", answer.Header, said.Questions[0])
		}
	}
}

// FuzzRawName: a record has the very bytes of the labels that were asked, and no two
// names read alike in it.
func FuzzRawName(f *testing.F) {
	for _, labels := range [][3]string{
		{"www", "example", "com"}, {"a.b", "com", ""}, {`a\`, ".", ""}, {"\x1b]0;x\a", "\x00\xff\n", "\u202e"}, {`\065`, "", ""}, {" \"();@$", "", ""},
	} {
		f.Add(labels[0], labels[1], labels[2])
	}
	escape := strings.NewReplacer(".", `\.`, `\`, `\\`)
	f.Fuzz(func(t *testing.T, a, b, c string) {
		var wire []byte
		var want []string
		for _, label := range []string{a, b, c} {
			if len(label) > 63 {
				return
			}
			if label != "" {
				wire = append(append(wire, byte(len(label))), label...)
				want = append(want, escape.Replace(label))
			}
		}
		text, _, err := dns.UnpackDomainName(append(wire, 0), 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := rawName(text); got != strings.Join(want, ".") {
			t.Errorf("labels %q: text %q, raw %q", want, text, got)
		}
		// So a host of the policy is no other name's text.
		host, err := flow.CanonicalHost(strings.TrimSuffix(text, "."))
		if err == nil && !strings.EqualFold(host, strings.Join(want, ".")) {
			t.Errorf("labels %q are the host %q", want, host)
		}
	})
}
