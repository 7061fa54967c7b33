package daemon

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/policy"
)

const nothing = "version: 1\nnetwork_policies: {}\n"

// Sandboxes that have the same texts share what is compiled of them, for as long as one
// of them uses it.
func TestLibraryShares(t *testing.T) {
	l := newLibrary(nil)
	digest := shared(t, l)
	runtime.GC()
	mustLoad(t, l, texts("c.yaml", nothing))
	if _, kept := l.loaded[digest]; kept {
		t.Error("what nobody uses is kept")
	}
	if third, same := mustLoad(t, l, texts("a.yaml", nothing)); third == nil || same != digest {
		t.Error("it is not loaded again")
	}
}

func mustLoad(t *testing.T, l *library, s *pb.PolicySource) (*policy.Policy, string) {
	t.Helper()
	p, _, digest, err := l.load(s)
	if err != nil {
		t.Fatal(err)
	}
	return p, digest
}

// shared loads a policy twice, and keeps neither.
func shared(t *testing.T, l *library) string {
	t.Helper()
	first, digest := mustLoad(t, l, texts("a.yaml", nothing))
	second, same := mustLoad(t, l, texts("a.yaml", nothing))
	if first != second || digest != same {
		t.Error("the same texts are loaded twice")
	}
	// The name stands in what is said of it, and where a text begins matters too.
	for _, s := range []*pb.PolicySource{texts("b.yaml", nothing), texts("a.yaml", nothing+"\n"), texts("a.yam", "l"+nothing[1:])} {
		if p, _, other, err := l.load(s); err == nil && p == first || other == digest {
			t.Errorf("%v is taken for the first", s)
		}
	}
	runtime.KeepAlive(first)
	return digest
}

// What is odd about a policy is told each time, not only when it is loaded.
func TestLibraryWarnings(t *testing.T) {
	l := newLibrary(nil)
	odd := texts("odd.yaml", "version: 1\nnetwork_policies:\n  odd:\n    endpoints: [{allowed_ips: [10.0.0.0/8], port: 443}]\n    binaries: [{path: /usr/bin/curl}]\n")
	p, warnings, _, err := l.load(odd)
	if err != nil || len(warnings) == 0 {
		t.Fatalf("%q, %v", warnings, err)
	}
	if _, again, _, err := l.load(odd); err != nil || strings.Join(again, "\n") != strings.Join(warnings, "\n") {
		t.Errorf("first %q, then %q, %v", warnings, again, err)
	}
	runtime.KeepAlive(p)
}

// A name without a text is a shipped policy's, and nothing of the host's disk.
func TestLibraryNames(t *testing.T) {
	l := newLibrary(nil)
	if _, _, _, err := l.load(&pb.PolicySource{Files: []*pb.PolicyFile{{Name: "base"}, {Yaml: []byte(nothing)}}}); err != nil {
		t.Errorf("base and a text without a name: %v", err)
	}
	for _, name := range []string{"/etc/passwd", "../base", "base.yaml", ""} {
		_, _, _, err := l.load(&pb.PolicySource{Files: []*pb.PolicyFile{{Name: name}}})
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != api.CodeInvalidArgument || !strings.Contains(e.Hint, "base") {
			t.Errorf("%q: %v", name, err)
		}
	}
	_, _, _, err := l.load(texts("bad.yaml", "version: 1\nnetwork_polices: {}\n"))
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Hint == "" || !strings.Contains(e.Message, "bad.yaml:2") {
		t.Errorf("a text that does not load: %v", err)
	}
}

// The operator's Rego is in every policy, and in the digest.
func TestLibraryModules(t *testing.T) {
	_, _, plain, err := newLibrary(nil).load(texts("a.yaml", nothing))
	if err != nil {
		t.Fatal(err)
	}
	broken := newLibrary([]policy.Source{{Name: "own.rego", Data: []byte("package none of ours")}})
	if _, _, narrowed, err := broken.load(texts("a.yaml", nothing)); err == nil || narrowed == plain {
		t.Errorf("a broken module: %v", err)
	}
}
