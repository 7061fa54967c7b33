package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/policies"
)

// many returns n endpoints in policies of fifty, every tenth a wildcard.
func many(n int) []string {
	var texts []string
	for start := 0; start < n; start += 1000 {
		var b strings.Builder
		b.WriteString("network_policies:\n")
		for i := start; i < min(n, start+1000); i++ {
			if i%50 == 0 {
				fmt.Fprintf(&b, "  p%d:\n    binaries: [{path: /usr/bin/curl}, {path: /opt/p%d/**}]\n    endpoints:\n", i, i)
			}
			if i%10 == 9 {
				fmt.Fprintf(&b, "    - {host: \"*.zone%d.example.com\", port: 443}\n", i)
			} else {
				fmt.Fprintf(&b, "    - {host: host%d.example.com, port: 443}\n", i)
			}
		}
		texts = append(texts, b.String())
	}
	return texts
}

func BenchmarkDecide(b *testing.B) {
	id := program("/usr/bin/curl", "/usr/bin/bash", "/usr/bin/node", "/usr/bin/bash")
	b.Run("cached", func(b *testing.B) {
		e := engine(b, Config{}, many(20)...)
		to := target(b, "host10.example.com:443")
		e.Decide(id, to)
		b.ReportAllocs()
		for b.Loop() {
			e.Decide(id, to)
		}
	})
	other := program("/opt/other/program", "/usr/bin/bash", "/usr/bin/node", "/usr/bin/bash")
	for _, n := range []int{20, 10_000} {
		g := engine(b, Config{}, many(n)...).current.Load()
		for _, bench := range []struct {
			name string
			id   *flow.Identity
			host string
		}{
			{"exact", id, "host10.example.com:443"},
			{"wildcard", id, "www.zone19.example.com:443"},
			{"address", id, "192.0.2.1:443"},
			{"no_endpoint", id, "nowhere.example.net:443"},
			{"wrong_binary", other, "host10.example.com:443"},
		} {
			b.Run(fmt.Sprintf("uncached/%d/%s", n, bench.name), func(b *testing.B) {
				to := target(b, bench.host)
				b.ReportAllocs()
				for b.Loop() {
					g.evaluate(bench.id, to)
				}
			})
		}
	}
}

func TestTenThousandEndpoints(t *testing.T) {
	e := engine(t, Config{}, many(10_000)...)
	id := program("/usr/bin/curl")
	for text, want := range map[string]flow.Reason{
		"host9998.example.com:443":    flow.ReasonAllowed,
		"x.zone9999.example.com:443":  flow.ReasonAllowed,
		"host10000.example.com:443":   flow.ReasonNoEndpoint,
		"x.zone10009.example.com:443": flow.ReasonNoEndpoint,
		"host0.example.com:80":        flow.ReasonWrongPort,
	} {
		if d := e.Decide(id, target(t, text)); d.Reason != want {
			t.Errorf("%s: %s", text, d.Reason)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{20, 10_000} {
		texts := many(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				load(b, texts...)
			}
		})
	}
}

// What a reload costs, from the text to the new generation, and another look at the
// links.
func BenchmarkReload(b *testing.B) {
	for _, n := range []int{20, 10_000} {
		texts := many(n)
		e := engine(b, Config{}, texts...)
		b.Run(fmt.Sprintf("policy/%d", n), func(b *testing.B) {
			for b.Loop() {
				if err := e.Replace(b.Context(), load(b, texts...), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("links/%d", n), func(b *testing.B) {
			for b.Loop() {
				if err := e.Replace(b.Context(), e.Policy(), []Link{{Path: "/a", Target: "/b"}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecideRequest(b *testing.B) {
	e := engine(b, Config{}, requestPolicy)
	id, to := program("/usr/bin/curl", "/usr/bin/bash", "/usr/bin/node"), target(b, "rules.test:443")
	b.ReportAllocs()
	for b.Loop() {
		e.DecideRequest(id, to, get("/v1/things"))
	}
}

func BenchmarkDeclares(b *testing.B) {
	e := engine(b, Config{}, many(20)...)
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e.Declares("host10.example.com")
		}
	})
	b.Run("uncached", func(b *testing.B) {
		g := e.current.Load()
		for i := 0; b.Loop(); i++ {
			g.declares(fmt.Sprintf("h%d.zone19.example.com", i))
		}
	})
}

// The first engine of a policy compiles it, the others share that.
func BenchmarkNewEngine(b *testing.B) {
	load := func() *Policy {
		p, _, err := Load(Source{"default.yaml", policies.Default})
		if err != nil {
			b.Fatal(err)
		}
		return p
	}
	shared := load()
	for name, policy := range map[string]func() *Policy{"first": load, "shared": func() *Policy { return shared }} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := NewEngine(b.Context(), policy(), Config{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
