package api

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocument wants the table of limits in docs/api.md to be that of the rules.
func TestDocument(t *testing.T) {
	const path = "../../docs/api.md"
	const head = "| field | limit |\n|---|---|\n"
	document, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, got, ok := strings.Cut(string(document), head)
	if !ok {
		t.Fatalf("%s has no table of limits", path)
	}
	got, _, _ = strings.Cut(got, "\n\n")
	var want []string
	for _, field := range slices.Sorted(maps.Keys(rules)) {
		want = append(want, fmt.Sprintf("| `%s` | %s |", field, describe(rules[field])))
	}
	if diff := cmp.Diff(strings.Join(want, "\n"), strings.TrimSpace(got)); diff != "" {
		t.Errorf("table (-want +got):\n%s\nwant, whole:\n%s", diff, strings.Join(want, "\n"))
	}
}

// describe says a rule in words.
func describe(r rule) string {
	var parts []string
	add := func(n int, format string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(format, n))
		}
	}
	add(r.entries, "%d entries")
	add(r.key, "key %d")
	switch {
	case r.key > 0:
		add(r.length, "value %d")
	case r.entries > 0:
		add(r.length, "each %d")
	default:
		add(r.length, "%d")
	}
	add(r.total, "%d together")
	add(r.encoded, "%d encoded")
	add(int(r.most), "a number to %d")
	words := map[*form]string{
		formName: "DNS-1123", formVariable: "a name of a variable, not `RINGFENCE_`", formKey: "no control characters",
		formLine: "one line", formText: "no NUL", formPath: "absolute, no `..`", formSignal: "a name without SIG",
		formVerdict: "allow, deny or audit",
	}
	switch {
	case r.keyForm != nil:
		parts = append(parts, "key "+words[r.keyForm], "value "+words[r.form])
	case r.form != nil:
		parts = append(parts, words[r.form])
	}
	if r.required {
		parts = append(parts, "required")
	}
	return strings.Join(parts, "; ")
}
