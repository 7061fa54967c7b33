package policy

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/flow"
)

// The rules for patterns, written for the eye, letter by letter. What decides are
// regular expressions and maps; here they are held against these.

// failures are the places where a model has already failed to match: what was
// left of the pattern, and of the text. Without them, many stars would take it
// for ever.
type failures map[[2]int]bool

// matches calls match, unless it is known to fail.
func (f failures) matches(pattern, text string, match func() bool) bool {
	place := [2]int{len(pattern), len(text)}
	if f[place] {
		return false
	}
	f[place] = !match()
	return !f[place]
}

// textMatches is the rule where a star is any text: within a label of a host, and
// in a value of a query.
func textMatches(glob, text string) bool { return failures{}.text(glob, text) }

func (f failures) text(glob, text string) bool {
	return f.matches(glob, text, func() bool {
		switch {
		case glob == "":
			return text == ""
		case glob[0] == '*':
			return f.text(glob[1:], text) || text != "" && f.text(glob, text[1:])
		}
		return text != "" && glob[0] == text[0] && f.text(glob[1:], text[1:])
	})
}

// pathMatches is the rule for paths, of programs and of requests: a star stays
// within a segment, two do not, and between two slashes they may also be nothing.
func pathMatches(glob, path string) bool {
	if strings.HasPrefix(glob, "/") && path == "" {
		return false // no path at all
	}
	return failures{}.path(glob, path)
}

func (f failures) path(glob, path string) bool {
	return f.matches(glob, path, func() bool {
		switch {
		case glob == "":
			return path == ""
		case glob == "/**" && path == "":
			return true
		case strings.HasPrefix(glob, "/**/") && f.path(glob[3:], path):
			return true
		case strings.HasPrefix(glob, "**"):
			return f.path(glob[2:], path) || path != "" && f.path(glob, path[1:])
		case glob[0] == '*':
			return f.path(glob[1:], path) || path != "" && path[0] != '/' && f.path(glob, path[1:])
		}
		return path != "" && glob[0] == path[0] && f.path(glob[1:], path[1:])
	})
}

// hostMatches is the rule for hosts, label by label. Both are in lower case.
func hostMatches(pattern, name string) bool {
	return labelsMatch(strings.Split(pattern, "."), strings.Split(name, "."))
}

func labelsMatch(pattern, name []string) bool {
	if pattern[0] == "**" {
		for skip := 1; skip < len(name); skip++ {
			if labelsMatch(pattern[1:], name[skip:]) {
				return true
			}
		}
		return false
	}
	if len(pattern) != len(name) {
		return false
	}
	for i := range pattern {
		if !textMatches(pattern[i], name[i]) {
			return false
		}
	}
	return true
}

// Hosts of random policies and random names: what the engine declares is what
// the rule says.
func TestHostsAgainstModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	labels := func(first, inner func() string) string {
		list := []string{first()}
		for range random.IntN(3) {
			list = append(list, inner())
		}
		return strings.Join(append(list, pick("x", "ab"), pick("com", "x")), ".")
	}
	plain := func() string { return pick("a", "b", "ab", "x", "aab", "a-b") }
	matched := 0
	for range 40 {
		var patterns []string
		text := "network_policies:\n  p:\n    binaries: [{path: /x}]\n    endpoints:\n"
		for range 12 {
			pattern := labels(
				func() string { return pick("*", "**", "a*", "*b", "a*b", "*a*", plain()) },
				func() string { return pick("*", plain(), plain()) })
			patterns = append(patterns, pattern)
			text += "    - {host: '" + pattern + "', port: 443}\n"
		}
		e := engine(t, Config{}, text)
		for range 50 {
			name := labels(plain, plain)
			want := false
			for _, pattern := range patterns {
				want = want || hostMatches(pattern, name)
			}
			if got := e.Declares(name); got != want {
				t.Fatalf("%s: engine %v, model %v\n%s", name, got, want, strings.Join(patterns, "\n"))
			}
			if want {
				matched++
			}
		}
	}
	if matched < 100 || matched > 1900 {
		t.Errorf("%d of 2000 names matched: the test says little", matched)
	}
}

func TestGlobsAgainstModel(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	text := func(least int, words ...string) string {
		var b strings.Builder
		for range least + random.IntN(5) {
			b.WriteString(words[random.IntN(len(words))])
		}
		return b.String()
	}
	globs := []string{"/", "/", "/", "a", "b", "*", "**", "/**/", "/**/**/", ".", "(", "[a]", "a|b", "$", `\`, "\n", "é"}
	texts := []string{"/", "/", "/", "a", "b", "ab", ".", "(", "[a]", "a|b", "$", `\`, "\n", "\xff", "\xc3", "é"}
	matched := 0
	for range 20_000 {
		glob, path := "/"+text(1, globs...), "/"+text(1, texts...)
		if strings.Contains(glob, "***") {
			continue // the loader refuses it
		}
		if paths(t, glob, path) {
			matched++
		}
		values(t, glob, path)
	}
	if matched < 500 {
		t.Errorf("%d of 20000 paths matched: the test says little", matched)
	}
}

// paths compares the expression for a glob over paths with the rule, alone and as
// one of several. It reports whether it matches.
func paths(t *testing.T, glob, path string) bool {
	t.Helper()
	want := pathMatches(glob, path)
	alone, err := regexp.Compile(anyOf([]string{pathExpression(glob)}))
	if err != nil {
		t.Fatalf("%q: %v", glob, err)
	}
	if got := alone.MatchString(path); got != want {
		t.Fatalf("glob %q, path %q: expression %v, model %v", glob, path, got, want)
	}
	const other = "/b/*"
	either, err := regexp.Compile(anyOf([]string{pathExpression(other), pathExpression(glob)}))
	if err != nil {
		t.Fatalf("%q: %v", glob, err)
	}
	if got := either.MatchString(path); got != (want || pathMatches(other, path)) {
		t.Fatalf("globs %q and %q, path %q: expression %v", other, glob, path, got)
	}
	if pathMatches(other, path) && want && !mayOverlap(glob, other) {
		t.Fatalf("globs %q and %q both match %q, and are said not to overlap", other, glob, path)
	}
	return want
}

// values does the same for globs over the values of a query.
func values(t *testing.T, glob, value string) {
	t.Helper()
	expression, err := regexp.Compile(Matcher{glob, "b*c"}.expression())
	if err != nil {
		t.Fatalf("%q: %v", glob, err)
	}
	if got, want := expression.MatchString(value), textMatches(glob, value) || textMatches("b*c", value); got != want {
		t.Fatalf("glob %q, value %q: expression %v, model %v", glob, value, got, want)
	}
}

// mayOverlap must never miss an overlap: a missed one would let two endpoints
// disagree unseen.
func TestMayOverlapMissesNothing(t *testing.T) {
	globs := []string{"/a", "/a/b", "/a/*", "/*/b", "/a/**", "/**/b", "/a/**/b", "/**", "/a*", "/*a", "/a*b"}
	paths := []string{"/a", "/a/b", "/b", "/ab", "/a/x/b", "/aab", "/a/a", "/x/a"}
	for _, a := range globs {
		for _, b := range globs {
			for _, path := range paths {
				if pathMatches(a, path) && pathMatches(b, path) && !mayOverlap(a, b) {
					t.Errorf("%s and %s both match %s", a, b, path)
				}
			}
		}
	}
}

// Many stars are no way to make a decision slow, or an expression too large.
func TestGlobOfManyStars(t *testing.T) {
	for _, unit := range []string{"*a", "/**", "/**/a", "*/", "**a"} {
		glob := "/" + strings.Repeat(unit, (maxPath-1)/len(unit))
		paths(t, glob, "/"+strings.Repeat("a/", 10)+"b")
		values(t, glob, strings.Repeat("a", 20))
	}
}

// reads reports whether the loader takes a text for a value.
func reads(l leaf, text string) bool {
	r := &reader{file: "x.yaml"}
	l.read(r, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}, "field")
	return len(r.problems) == 0
}

// tooLong bounds what a model is asked: it is slow.
func tooLong(pattern, text string) bool { return len(pattern)*len(text) > 1<<16 }

func FuzzHosts(f *testing.F) {
	for _, pattern := range []string{"example.com", "*.example.com", "**.example.com", "us-*.example.com", "a.*.example.com", "*A*b.c-d.e_f", "192.0.2.1", "2001:DB8::1"} {
		for _, name := range []string{"example.com", "a.example.com", "a.b.example.com", "us-.example.com", "xaxb.c-d.e_f", "192.0.2.1", "2001:db8::1", "a\n.example.com"} {
			f.Add(pattern, name)
		}
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		var h Host
		if tooLong(pattern, name) || !reads(&h, pattern) || h.text == "" {
			return
		}
		to, err := flow.ParseTarget(name + ":443")
		if err != nil {
			return
		}
		want := hostMatches(strings.ToLower(pattern), to.Host)
		if h.addr.IsValid() || to.Addr.IsValid() {
			want = h.addr == to.Addr
		}
		if got := h.matches(to.Host); got != want {
			t.Fatalf("pattern %q, host %q: %v, model %v", pattern, to.Host, got, want)
		}
		if !h.wildcard() || !want {
			return
		}
		if suffix, labels := h.suffix(); !strings.HasSuffix(to.Host, "."+suffix) || strings.Count(to.Host, ".") < labels {
			t.Fatalf("pattern %q would not be looked up for %q under %q", pattern, to.Host, suffix)
		}
		if !mayOverlap(h.text, to.Host) {
			t.Fatalf("pattern %q is said not to overlap %q", pattern, to.Host)
		}
	})
}

func FuzzPathGlobs(f *testing.F) {
	for _, glob := range []string{"/usr/bin/git", "/opt/*/bin/*", "/**", "**", "/**/info/refs*", "/a/**/b", "/a**b", "/**/**/x", "/(a|b)+$", "/a.b", `/\d`} {
		for _, path := range []string{"/usr/bin/git", "/opt/x/bin/y", "/", "/o/r.git/info/refs", "/a/b", "/a/x/y/b", "/axb", "/a\n", "/\xff/info/refs", "", "/a.b", "/5"} {
			f.Add(glob, path)
		}
	}
	f.Fuzz(func(t *testing.T, glob, path string) {
		if tooLong(glob, path) || !reads(new(BinaryPath), glob) && !reads(new(PathGlob), glob) {
			return
		}
		paths(t, glob, path)
	})
}

func FuzzQueryGlobs(f *testing.F) {
	for _, glob := range []string{"", "*", "**", "a*", "*a*b*", "public-*", "(a|b)+", "^$", ".*", `\`, "é*", "***"} {
		for _, value := range []string{"", "a", "ab", "a b", "public-x", "\n", "a\nb", "\xff", "é", ".*", `\`} {
			f.Add(glob, value)
		}
	}
	f.Fuzz(func(t *testing.T, glob, value string) {
		if tooLong(glob, value) || !reads(new(Matcher), glob) {
			return
		}
		values(t, glob, value)
	})
}
