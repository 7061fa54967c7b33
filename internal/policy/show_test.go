package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/policies"
)

// What is shown loads again, and decides the same.
func TestShowLoadsAgain(t *testing.T) {
	sources := map[string][]byte{"explained": []byte("version: 1\n" + explained), "decide": []byte("version: 1\n" + decidePolicy)}
	for _, shipped := range policies.All() {
		sources[shipped.Name] = shipped.Data
	}
	for name, data := range sources {
		t.Run(name, func(t *testing.T) {
			p, _, err := Load(Source{name, data})
			if err != nil {
				t.Fatal(err)
			}
			text, err := p.YAML([]Link{{Path: "/usr/bin/python3", Target: "/usr/bin/python3.11"}})
			if err != nil {
				t.Fatal(err)
			}
			again, _, err := Load(Source{name, text})
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if diff := cmp.Diff(newIndex(p).data(), newIndex(again).data()); diff != "" {
				t.Errorf("(-first +again)\n%s", diff)
			}
			if u, g := p.Process(); u != "" {
				if u2, g2 := again.Process(); u != u2 || g != g2 {
					t.Errorf("process %s %s", u2, g2)
				}
			}
			if data, err := p.JSON(nil); err != nil || !json.Valid(data) {
				t.Errorf("JSON: %v", err)
			}
		})
	}
}

func TestShow(t *testing.T) {
	p := load(t, `
process: {run_as_user: 1000}
network_policies:
  b:
    endpoints: [{host: A.example.com, port: 443}]
    binaries: [{path: /usr/bin/python3, allow_taints: [writable]}]
`)
	links := []Link{{Path: "/usr/bin/python3", Target: "/usr/bin/python3.11", Writable: true}}
	text, err := p.YAML(links)
	if err != nil {
		t.Fatal(err)
	}
	want := `version: 1
process:
  run_as_user: 1000
network_policies:
  # "0.yaml":5
  b:
    name: b
    endpoints:
      - host: a.example.com
        ports: [443]
    binaries:
      - path: /usr/bin/python3 # leads to "/usr/bin/python3.11", and the sandbox can change that
        allow_taints: [writable]
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	data, err := p.JSON(links)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"resolved": "/usr/bin/python3.11"`, `"resolved_writable": true`, `"field": "network_policies.b"`, `"line": 5`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s in\n%s", want, data)
		}
	}
}
