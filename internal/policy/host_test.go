package policy

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func compileAll(t *testing.T, n Network) {
	t.Helper()
	for _, e := range n.Endpoints {
		if e.Host.wildcard() {
			if _, err := regexp.Compile(e.Host.expression()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, b := range n.Binaries {
		if _, err := regexp.Compile(pathExpression(string(b.Path))); err != nil {
			t.Fatal(err)
		}
	}
}

// labelsMatch is the rule for hosts, written for the eye: label by label.
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
		if !labelMatches(pattern[i], name[i]) {
			return false
		}
	}
	return true
}

func labelMatches(pattern, label string) bool {
	if pattern == "" {
		return label == ""
	}
	if pattern[0] == '*' {
		return labelMatches(pattern[1:], label) || label != "" && labelMatches(pattern, label[1:])
	}
	return label != "" && pattern[0] == label[0] && labelMatches(pattern[1:], label[1:])
}

// Hosts of random policies and random names: what the engine declares is what
// the obvious rule says.
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
				want = want || labelsMatch(strings.Split(pattern, "."), strings.Split(name, "."))
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

// pathMatches is the rule for globs over paths, byte by byte.
func pathMatches(glob, path string) bool {
	switch {
	case glob == "":
		return path == ""
	case strings.HasPrefix(glob, "/**/") && pathMatches(glob[3:], path):
		return true
	case strings.HasPrefix(glob, "**"):
		return pathMatches(glob[2:], path) || path != "" && pathMatches(glob, path[1:])
	case glob[0] == '*':
		return pathMatches(glob[1:], path) || path != "" && path[0] != '/' && pathMatches(glob, path[1:])
	}
	return path != "" && glob[0] == path[0] && pathMatches(glob[1:], path[1:])
}

func TestGlobsAgainstModel(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	text := func(words ...string) string {
		var b strings.Builder
		for range 1 + random.IntN(4) {
			b.WriteString("/" + words[random.IntN(len(words))])
		}
		return b.String()
	}
	matched := 0
	for range 5000 {
		glob, path := text("a", "b", "*", "**", "a*", "*.b", "a**", "[a]"), text("a", "b", "ab", "a.b", "\n", "\xff", "[a]")
		want := pathMatches(glob, path)
		got := regexp.MustCompile(anyOf([]string{pathExpression(glob)})).MatchString(path)
		if got != want {
			t.Fatalf("%q, %q: expression %v, model %v", glob, path, got, want)
		}
		if want {
			matched++
		}
	}
	if matched < 100 {
		t.Errorf("%d of 5000 paths matched: the test says little", matched)
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
