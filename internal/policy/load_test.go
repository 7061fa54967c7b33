package policy

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ringfence/ringfence/policies"
)

var update = flag.Bool("update", false, "rewrite the expectations of testdata/load")

// TestLoadGolden loads each testdata/load/*.yaml and compares its warnings and
// errors with the comments at its end: "# error: …" and "# warning: …".
func TestLoadGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/load/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			// Comments move nothing: the text above them is all that is judged.
			text, want := splitGolden(string(data))
			got := outcome(Source{"x.yaml", data})
			if *update {
				if err := os.WriteFile(file, []byte(text+joinGolden(got)), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// splitGolden parts a golden file into its policy and what is expected of it.
func splitGolden(data string) (text string, want []string) {
	for line := range strings.Lines(data) {
		comment, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "# ")
		if ok && (strings.HasPrefix(comment, "error: ") || strings.HasPrefix(comment, "warning: ")) {
			want = append(want, comment)
			continue
		}
		text += line
	}
	return text, want
}

func joinGolden(lines []string) (text string) {
	for _, line := range lines {
		text += "# " + line + "\n"
	}
	return text
}

// outcome returns errors, then warnings, as the golden files write them.
func outcome(sources ...Source) []string {
	_, warnings, err := Load(sources...)
	var lines []string
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			lines = append(lines, "error: "+line)
		}
	}
	for _, w := range warnings {
		lines = append(lines, "warning: "+w.String())
	}
	return lines
}

// Texts that a golden file would be unreadable with.
func TestLoadRefuses(t *testing.T) {
	endpoints := func(n int) string {
		return "version: 1\nnetwork_policies:\n  p:\n    binaries: [{path: /x}]\n    endpoints:\n" +
			strings.Repeat("    - {host: h.example.com, port: 443}\n", n)
	}
	wildcards := "version: 1\nnetwork_policies:\n  p:\n    binaries: [{path: /x}]\n    endpoints:\n"
	for i := range maxCrowd + 1 {
		wildcards += fmt.Sprintf("    - {host: 'h%d-*.example.com', port: 443}\n", i)
	}
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "x.yaml:1:1: is empty"},
		{"only a comment", "# nothing\n", "x.yaml:1:1: is empty"},
		{"null", "~", "x.yaml:1:1: must be a mapping (field: value), not nothing"},
		{"too large", strings.Repeat("#", MaxFile+1), "x.yaml:1:1: has 262145 bytes, at most 262144 are allowed"},
		{"too many nodes", "version: 1\nx: [" + strings.Repeat("1,", maxNodes) + "]", "x.yaml:2:199995: the file holds more than 100000 values"},
		{"too deep", "version: 1\nx: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "x.yaml:2:20: is nested deeper than 16 levels"},
		{"far too deep", "version: 1\nx: " + strings.Repeat("[", 100_000), "x.yaml:2:1: is not YAML: exceeded max depth of 10000"},
		{"two documents", "version: 1\n---\nversion: 1\n", "x.yaml:2:1: holds a second document; write it to a file of its own"},
		{"alias", "version: &v 1\nprocess: *v\n", "x.yaml:2:10: is an alias (*v), which policies may not use; write the value out"},
		{"alias to itself", "version: &v [*v]\n", "x.yaml:1:14: is an alias (*v), which policies may not use; write the value out"},
		{"no UTF-8", "version: \xff", "x.yaml:1:1: is not YAML: invalid leading UTF-8 octet"},
		{"too many ports", strings.Replace(endpoints(1), "port: 443", "ports: ["+strings.Repeat("1,", 65)+"]", 1),
			"x.yaml:6:36: network_policies.p.endpoints[0].ports: has 65 entries, at most 64 are allowed"},
		{"long path", strings.Replace(endpoints(1), "/x", "/"+strings.Repeat("x", maxPath), 1),
			"x.yaml:4:23: network_policies.p.binaries[0].path: has 4097 bytes, at most 4096 are allowed"},
		{"many endpoints of one host and port", endpoints(maxSharer + 1), "x.yaml:262:7: network_policies.p.endpoints[256]: is one of more than 256 endpoints for h.example.com, port 443; put policies together"},
		{"crowd of wildcards", wildcards, "x.yaml:70:7: network_policies.p.endpoints[64]: is one of more than 64 different patterns in the domain example.com; use a wider one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := Load(Source{"x.yaml", []byte(test.text)})
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestLoadComposes(t *testing.T) {
	one := Source{"one.yaml", []byte("version: 1\nprocess: {run_as_user: 1000, run_as_group: users}\nnetwork_policies:\n  a:\n    binaries: [{path: /x}]\n    endpoints: [{host: a.example.com, port: 1}]\n")}
	two := Source{"two.yaml", []byte("version: 1\nnetwork_policies:\n  b:\n    binaries: [{path: /x}]\n    endpoints: [{host: a.example.com, port: 1}]\n")}
	p, warnings, err := Load(one, two)
	if err != nil || len(warnings) != 0 || len(p.networks) != 2 {
		t.Fatalf("%v, %v, %v", p, warnings, err)
	}
	if user, group := p.Process(); user != "1000" || group != "users" {
		t.Errorf("user %q, group %q", user, group)
	}
	_, _, err = Load(one, two, Source{"three.yaml", one.Data})
	want := "three.yaml:2:10: process: is also defined at one.yaml:2:10; one of the two must go\n" +
		"three.yaml:4:3: network_policies.a: is also defined at one.yaml:4:3; one of the two must go"
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	if _, _, err := Load(); err == nil {
		t.Error("no source is no error")
	}
	if _, _, err := Load(make([]Source, maxSources+1)...); err == nil {
		t.Error("any number of sources is taken")
	}
}

// However the endpoints of a large policy are chosen, finding out how they stand to
// each other ends.
func TestConflictsAreBounded(t *testing.T) {
	var sources []Source
	for i := range 20 {
		var b strings.Builder
		b.WriteString("version: 1\nnetwork_policies:\n")
		for j := range 10 {
			fmt.Fprintf(&b, "  p%d_%d:\n    binaries:\n", i, j)
			for k := range 100 {
				fmt.Fprintf(&b, "    - {path: \"/%d/%d/%d/*\"}\n", i, j, k)
			}
			b.WriteString("    endpoints:\n")
			for k := range 60 {
				fmt.Fprintf(&b, "    - {host: \"*.s%d-%d-%d.example.com\", port: 443, tls: %s}\n", i, j, k, []string{"auto", "skip"}[k%2])
			}
		}
		sources = append(sources, Source{fmt.Sprintf("%d.yaml", i), []byte(b.String())})
	}
	_, _, err := Load(sources...)
	if err == nil || !strings.Contains(err.Error(), "is one of too many that may overlap") {
		t.Errorf("%v", err)
	}
}

// What is large and plain loads: many policies for one host, and for the same pods.
func TestLargePoliciesLoad(t *testing.T) {
	var many, pods strings.Builder
	many.WriteString("network_policies:\n")
	pods.WriteString("network_policies:\n")
	for i := range 100 {
		fmt.Fprintf(&many, "  p%d:\n    endpoints: [{host: h.example.com, port: 443, tls: %s}]\n    binaries:\n", i, []string{"auto", "skip"}[i%2])
		for j := range 50 {
			fmt.Fprintf(&many, "    - {path: /opt/%d/%d}\n", i, j)
		}
	}
	for i := range 5 {
		fmt.Fprintf(&pods, "  q%d:\n    binaries: [{path: /opt/q%d}]\n    endpoints:\n    - port: 80\n      allowed_ips:\n", i, i)
		for j := range 60 {
			fmt.Fprintf(&pods, "      - 10.0.0.%d\n", j)
		}
	}
	load(t, many.String(), pods.String())
}

func TestLoadErrorIsBounded(t *testing.T) {
	text := "version: 1\n"
	for i := range 1000 {
		text += fmt.Sprintf("x%d: 1\n", i)
	}
	_, _, err := Load(Source{"x.yaml", []byte(text)})
	var problems LoadError
	if !errors.As(err, &problems) || len(problems) != 1000 {
		t.Fatalf("%d problems", len(problems))
	}
	if lines := strings.Count(err.Error(), "\n"); lines != maxShown {
		t.Errorf("%d lines", lines+1)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("version: 1\n" + decidePolicy))
	for _, shipped := range policies.All() {
		f.Add(shipped.Data)
	}
	for _, pattern := range []string{"testdata/load/*.yaml", "testdata/openshell/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, warnings, err := Load(Source{"x.yaml", data})
		if (p == nil) == (err == nil) {
			t.Fatalf("policy %v, error %v", p, err)
		}
		for _, w := range warnings {
			checkText(t, w.String())
		}
		if err != nil {
			checkText(t, err.Error())
			return
		}
		// What loads can be compiled, and its expressions are expressions. (A whole
		// engine for each input would leave few inputs.)
		if _, err := ast.InterfaceToValue(newIndex(p).data()); err != nil {
			t.Fatal(err)
		}
		for _, expression := range expressions(p) {
			if _, err := regexp.Compile(expression); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// expressions returns every regular expression that a policy leads to.
func expressions(p *Policy) (all []string) {
	rule := func(rule Rule) {
		all = append(all, pathExpression(string(rule.Path)))
		for _, values := range rule.Query {
			all = append(all, values.expression())
		}
	}
	for _, n := range p.networks {
		var globs []string
		for _, b := range n.Binaries {
			globs = append(globs, pathExpression(string(b.Path)))
		}
		all = append(all, anyOf(globs))
		for _, e := range n.Endpoints {
			all = append(all, pathExpression(string(e.Path)))
			if e.Host.wildcard() {
				all = append(all, e.Host.expression())
			}
			for _, r := range e.Rules {
				rule(r.Allow)
			}
			for _, r := range e.DenyRules {
				rule(r)
			}
		}
	}
	return all
}

// checkText fails for what a terminal would obey.
func checkText(t *testing.T, text string) {
	t.Helper()
	for _, c := range text {
		if !unicode.IsGraphic(c) && c != '\n' {
			t.Fatalf("%q holds %q", text, c)
		}
	}
}
