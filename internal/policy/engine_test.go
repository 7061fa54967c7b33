package policy

import (
	"fmt"
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
