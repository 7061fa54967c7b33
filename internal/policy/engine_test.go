package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/policies"
)

// engine returns an engine on policies written in YAML, without "version: 1".
func engine(t testing.TB, config Config, texts ...string) *Engine {
	t.Helper()
	e, err := NewEngine(t.Context(), load(t, texts...), config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func load(t testing.TB, texts ...string) *Policy {
	t.Helper()
	var sources []Source
	for i, text := range texts {
		sources = append(sources, Source{fmt.Sprintf("%d.yaml", i), []byte("version: 1\n" + text)})
	}
	p, _, err := Load(sources...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func program(path string, ancestors ...string) *flow.Identity {
	var images []flow.Image
	for _, a := range ancestors {
		images = append(images, flow.Image{Path: a})
	}
	return flow.NewIdentity(flow.Image{Path: path}, 1000, 1000, images)
}

func target(t testing.TB, text string) flow.Target {
	t.Helper()
	target, err := flow.ParseTarget(text)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestDefaultPolicyLoads(t *testing.T) {
	p, warnings, err := Load(Source{"default.yaml", policies.Default})
	if err != nil || len(warnings) != 0 {
		t.Fatalf("error %v, warnings %v", err, warnings)
	}
	if user, group := p.Process(); user != "" || group != "" {
		t.Errorf("names user %q, group %q", user, group)
	}
	e, err := NewEngine(t.Context(), p, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if d := e.Decide(program("/usr/bin/curl"), target(t, "api.github.com:443")); d.Verdict != flow.Allow {
		t.Errorf("%+v", d)
	}
}

// many returns n endpoints in policies of fifty.
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

func BenchmarkNewEngine(b *testing.B) {
	for b.Loop() {
		p, _, err := Load(Source{"default.yaml", policies.Default})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := NewEngine(b.Context(), p, Config{}); err != nil {
			b.Fatal(err)
		}
	}
}
