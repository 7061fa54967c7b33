package policy

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Place is where in a source something stands.
type Place struct {
	File         string
	Line, Column int
	Field        string // "network_policies.github.endpoints[0].port"; empty for a whole file
}

// String returns "file:line:column: field", as editors read it.
func (p Place) String() string {
	s := fmt.Sprintf("%s:%d:%d", printableName(p.File), p.Line, p.Column)
	if p.Field != "" {
		s += ": " + p.Field
	}
	return s
}

// printableName quotes the name of a file that a terminal could obey: whoever makes
// files in a directory chooses the names of what is read there.
func printableName(name string) string {
	if quoted := strconv.QuoteToGraphic(name); quoted[1:len(quoted)-1] != name {
		return quoted
	}
	return name
}

// Problem is one thing in a source that keeps it from being loaded.
type Problem struct {
	Place
	Message string
}

// String returns "file:line:column: field: message".
func (p Problem) String() string { return p.Place.String() + ": " + p.Message }

func compareProblems(a, b Problem) int {
	return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

// Warning is one thing in a source that loads, but may not do what was meant.
type Warning struct {
	Place
	Message string
}

// String returns "file:line:column: field: message".
func (w Warning) String() string { return w.Place.String() + ": " + w.Message }

// TellWarnings hands on the texts of warnings, those alike as one: a policy may
// have one for each endpoint.
func TellWarnings(warnings []Warning, tell func(text string)) {
	type kind struct{ file, message string }
	alike := map[kind]int{}
	for _, w := range warnings {
		alike[kind{w.File, w.Message}]++
	}
	for _, w := range warnings {
		k := kind{w.File, w.Message}
		switch n := alike[k]; {
		case n == 1:
			tell(w.String())
		case n > 1:
			tell(fmt.Sprintf("%s (and so for %d more)", w, n-1))
		}
		delete(alike, k) // told
	}
}

// LoadError is all that is wrong with a set of sources, in the order of the text.
type LoadError []Problem

// maxShown bounds the text of an error: a file of commas has a problem for each.
const maxShown = 50

// Error returns one line for each problem.
func (e LoadError) Error() string {
	var text strings.Builder
	for i, problem := range e {
		if i > 0 {
			text.WriteByte('\n')
		}
		if i == maxShown {
			fmt.Fprintf(&text, "and %d more", len(e)-maxShown)
			break
		}
		text.WriteString(problem.String())
	}
	return text.String()
}
