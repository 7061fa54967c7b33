package relay

import (
	"bufio"
	"bytes"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/sniff"
)

// FuzzRequest: the target that is taken from a request is the one that net/http and
// net/url read there, and a Host field says nothing else.
func FuzzRequest(f *testing.F) {
	for _, head := range []string{
		"CONNECT allowed.example:443 HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
		"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n",
		"CONNECT a@b.example:1 HTTP/1.1\r\nHost: b.example:1\r\n\r\n",
		"CONNECT //a.example:1 HTTP/1.1\r\n\r\n",
		"CONNECT http://a.example:1 HTTP/1.1\r\n\r\n",
		"GET http://a.example:80#@b.example/ HTTP/1.1\r\n\r\n",
		"GET HTTP://A.Example\\@b.example/ HTTP/1.1\r\n\r\n",
		"GET http://a.example%2eb.example/ HTTP/1.1\r\n\r\n",
		"GET https://[2001:db8::1]/?http://b.example/ HTTP/1.1\r\n\r\n",
		"GET http://a.example:080/ HTTP/1.1\r\n\r\n",
		"GET ftp://a.example/ HTTP/1.1\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
	} {
		f.Add([]byte(head))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var scanner sniff.HeadScanner
		head, err := scanner.Scan(data)
		if err != nil {
			return
		}
		if head.Method == http.MethodConnect {
			checkConnect(t, data, head)
			return
		}
		c := &conn{record: &flow.Record{}}
		denial := c.refuseForward(head)
		if denial == nil {
			t.Fatalf("%q is served", data)
		}
		if c.record.Host == "" {
			return
		}
		u, err := url.Parse(head.Target)
		if err != nil {
			return // what is wrong with a path or query is nobody's matter: it is refused
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		if u.User != nil || !sameHost(c.record.Host, u.Hostname()) || port != strconv.Itoa(int(c.record.Port)) {
			t.Errorf("%q: host %q and port %d, net/url reads %+v", head.Target, c.record.Host, c.record.Port, u)
		}
	})
}

func checkConnect(t *testing.T, data []byte, head sniff.Head) {
	t.Helper()
	target, denial := parseConnect(head)
	if denial != nil {
		if target != (flow.Target{}) {
			t.Errorf("%+v with %+v", target, denial)
		}
		return
	}
	if again, err := flow.ParseTarget(target.String()); err != nil || again != target {
		t.Errorf("%q is %v, which reads as %v, %v", head.Target, target, again, err)
	}
	if addr, err := netip.ParseAddr(target.Host); err == nil != target.Addr.IsValid() || err == nil && addr != target.Addr {
		t.Errorf("%q: host %q with address %v", head.Target, target.Host, target.Addr)
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data[:head.Size])))
	if err != nil {
		return
	}
	if !sameHost(target.Host, req.URL.Hostname()) || req.URL.Port() != strconv.Itoa(int(target.Port)) {
		t.Errorf("%q is %v, net/http reads %q", head.Target, target, req.URL.Host)
	}
	if field := (&url.URL{Host: head.Host}); head.HasHost && !sameHost(target.Host, field.Hostname()) {
		t.Errorf("the field %q agrees with %v", head.Host, target)
	}
}

// sameHost compares a canonical host with what another parser read.
func sameHost(host, read string) bool {
	if addr, err := netip.ParseAddr(read); err == nil {
		return host == addr.Unmap().String()
	}
	return host == strings.ToLower(read)
}
