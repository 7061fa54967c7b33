package e2e

import (
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// client is a real program that connects to $H, which is its own in each test: so
// a record is known to be its.
type client struct {
	name    string
	command string
	binary  string // that connects
	port    int
	proxied bool // uses HTTPS_PROXY where that is set
	want    string
}

const (
	httpAnswer   = "hello from $H"
	bannerAnswer = "220 mail.test ESMTP"
)

// clients are all of them. Programs that speak TLS verify the server.
func (f *fixture) clients() []client {
	libc, musl, probe := f.tool(toolC), f.tool(toolMusl), f.tool(toolGo)
	curl, wget, git := realPath(f.t, "curl"), realPath(f.t, "wget"), "/usr/lib/git-core/git-remote-http"
	python, node := realPath(f.t, "/usr/bin/python3"), realPath(f.t, "node")
	openssl, nc := realPath(f.t, "openssl"), realPath(f.t, "nc")
	urllib := f.file("get.py", "import sys, urllib.request\nprint(urllib.request.urlopen(sys.argv[1]).read().decode())\n", 0o644)
	// Node may forget a fetch whose connection is reset early, and then just ends.
	fetch := f.file("get.js", "process.exitCode = 1\nfetch(process.argv[2]).then(r => r.text()).then(t => { console.log(t); process.exitCode = 0 })\n", 0o644)
	clone := ` https://$H/owner/project.git "$d/p" && cat "$d/p/README"`
	request := `printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' $H | `
	sClient := " s_client -quiet -verify_return_error -CAfile $CURL_CA_BUNDLE -connect $H:443 -servername $H"
	return []client{
		{"curl over IPv4", curl + " -4 -sS https://$H/", curl, 443, true, httpAnswer},
		{"curl over IPv6", curl + " -6 -sS https://$H/", curl, 443, true, httpAnswer},
		{"curl without TLS", curl + " -sS http://$H/", curl, 80, false, httpAnswer},
		{"wget over IPv4", wget + " -4 -t1 -qO- --ca-certificate=$CURL_CA_BUNDLE https://$H/", wget, 443, true, httpAnswer},
		{"wget over IPv6", wget + " -6 -t1 -qO- --ca-certificate=$CURL_CA_BUNDLE https://$H/", wget, 443, true, httpAnswer},
		{"wget without TLS", wget + " -t1 -qO- http://$H/", wget, 80, false, httpAnswer},
		{"git over IPv4", "d=$(mktemp -d); git clone -4 -q" + clone, git, 443, true, "hello"},
		{"git over IPv6", "d=$(mktemp -d); git clone -6 -q" + clone, git, 443, true, "hello"},
		{"urllib", python + " " + urllib + " https://$H/", python, 443, true, httpAnswer},
		{"urllib without TLS", python + " " + urllib + " http://$H/", python, 80, false, httpAnswer},
		{"node fetch", node + " " + fetch + " https://$H/", node, 443, nodeUsesProxy(f.t, node), httpAnswer},
		{"node fetch without TLS", node + " " + fetch + " http://$H/", node, 80, false, httpAnswer},
		{"openssl over IPv4", request + openssl + sClient + " -4", openssl, 443, false, httpAnswer},
		{"openssl over IPv6", request + openssl + sClient + " -6", openssl, 443, false, httpAnswer},
		{"nc over IPv4", nc + " -4 -N -w 20 $H 25", nc, 25, false, bannerAnswer},
		{"nc over IPv6", nc + " -6 -N -w 20 $H 25", nc, 25, false, bannerAnswer},
		{"glibc over IPv4", libc + " -4 $H 25", libc, 25, false, bannerAnswer},
		{"glibc over IPv6", libc + " -6 $H 25", libc, 25, false, bannerAnswer},
		{"glibc, v4-mapped", libc + " -m $H 25", libc, 25, false, bannerAnswer},
		{"static musl over IPv4", musl + " -4 $H 25", musl, 25, false, bannerAnswer},
		{"static musl over IPv6", musl + " -6 $H 25", musl, 25, false, bannerAnswer},
		{"static musl, v4-mapped", musl + " -m $H 25", musl, 25, false, bannerAnswer},
		{"Go over IPv4", probe + " -net tcp4 connect $H:25", probe, 25, false, bannerAnswer},
		{"Go over IPv6", probe + " -net tcp6 connect $H:25", probe, 25, false, bannerAnswer},
	}
}

// nodeUsesProxy reports whether this Node knows NODE_USE_ENV_PROXY.
func nodeUsesProxy(t testing.TB, node string) bool {
	t.Helper()
	out, err := exec.Command(node, "-p", "process.versions.node.split('.')[0]").Output()
	if err != nil {
		t.Fatal(err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return major >= 24
}

// withoutProxy is a prefix of a command that must find its way by itself.
const withoutProxy = "unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy NODE_USE_ENV_PROXY;"

// Where the names of the two wildcards lead.
var (
	openAddrs   = []netip.Addr{netip.MustParseAddr("203.0.113.81"), netip.MustParseAddr("2001:db8:2::81")}
	closedAddrs = []netip.Addr{netip.MustParseAddr("198.51.100.81"), netip.MustParseAddr("2001:db8:3::81")}
)

// TestClients runs every client with and without the proxy variables, to a host
// that it may reach and to one that is for another program.
func TestClients(t *testing.T) {
	testenv.Require(t, "curl", "wget", "git", "openssl", "nc", "node", "gcc", "musl-gcc")
	f := newFixture(t)
	ports := []int{25, 80, 443}
	clients := f.clients()
	var binaries []string
	var steps []step
	for i, c := range clients {
		binaries = append(binaries, c.binary)
		for _, way := range []struct{ name, prefix string }{{"captured", withoutProxy}, {"proxied", ""}} {
			for domain, addrs := range map[string][]netip.Addr{"open": openAddrs, "closed": closedAddrs} {
				host := hostOf(i, way.name, domain)
				f.env.Zone(host, addrs...)
				steps = append(steps, step{host, way.prefix + " H=" + host + "; " + c.command})
			}
		}
	}
	policy := f.policy(allowBlock("open", "*.open.test", ports, binaries...) +
		allowBlock("closed", "*.closed.test", ports, "/usr/bin/another"))
	r, results := f.steps(policy, steps)
	for i, c := range clients {
		for _, way := range []string{"captured", "proxied"} {
			mode := "transparent"
			if way == "proxied" && c.proxied {
				mode = "connect"
			}
			t.Run(c.name+"/"+way+"/allowed", func(t *testing.T) {
				host := hostOf(i, way, "open")
				f.reached(t, c, host, r, results[host])
				r.one(t, host).check(t, record{Verdict: "allow", Engine: "opa", Policy: "open",
					Reason: "allowed", Mode: mode, Binary: c.binary, Port: c.port})
			})
			t.Run(c.name+"/"+way+"/denied", func(t *testing.T) {
				host := hostOf(i, way, "closed")
				f.notReached(t, c, host, results[host])
				if n := f.env.Asked(host); n != 0 {
					t.Errorf("the name was looked up %d times upstream", n)
				}
				for _, rec := range r.about(host) { // some try each address, or again
					rec.check(t, record{Verdict: "deny", Engine: "opa", Policy: "closed",
						Reason: "wrong_binary", Mode: mode, Binary: c.binary, Port: c.port})
				}
				if len(r.about(host)) == 0 {
					t.Error("no record")
				}
			})
		}
	}
	for _, addr := range closedAddrs {
		f.env.NothingArrived(t, testenv.To(addr))
	}
}

func hostOf(i int, way, domain string) string {
	return "c" + strconv.Itoa(i) + "-" + way + "." + domain + ".test"
}

// reached checks both ends of a connection that was allowed.
func (f *fixture) reached(t *testing.T, c client, host string, r *result, got stepResult) {
	t.Helper()
	if want := strings.ReplaceAll(c.want, "$H", host); got.status != 0 || !strings.Contains(got.output, want) {
		t.Errorf("status %d, output %q, want %q", got.status, got.output, want)
	}
	if c.port == testenv.PortBanner {
		if received := r.one(t, host).Received; received != int64(len(testenv.Banner)) {
			t.Errorf("record says %d bytes received, want the banner's %d", received, len(testenv.Banner))
		}
		return
	}
	requests := f.requestsFor(host)
	if len(requests) == 0 {
		t.Fatal("no request arrived")
	}
	if wantSNI := c.port == testenv.PortHTTPS; (requests[0].SNI == host) != wantSNI {
		t.Errorf("the server saw the name %q", requests[0].SNI)
	}
}

func (f *fixture) notReached(t *testing.T, c client, host string, got stepResult) {
	t.Helper()
	want := strings.ReplaceAll(c.want, "$H", host)
	// For nc a reset is an end like another.
	if strings.Contains(got.output, want) || got.status == 0 && !strings.HasPrefix(c.name, "nc ") {
		t.Errorf("status %d, output %q", got.status, got.output)
	}
	if requests := f.requestsFor(host); len(requests) != 0 {
		t.Errorf("requests arrived: %+v", requests)
	}
}

func (f *fixture) requestsFor(host string) []testenv.Request {
	var found []testenv.Request
	for _, r := range f.env.Requests() {
		if name, _, _ := strings.Cut(r.Host, ":"); name == host {
			found = append(found, r)
		}
	}
	return found
}
