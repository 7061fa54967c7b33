package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// reader walks the nodes of one source and gathers all that is wrong with it, so
// that a person mends a file once. Its methods return what could be read; the
// result counts only if there are no problems at the end.
type reader struct {
	file     string
	types    map[reflect.Type][]fieldInfo // of the document, as they were met
	problems []Problem
	warnings []Warning
}

func (r *reader) place(n *yaml.Node, field string) Place {
	return Place{File: r.file, Line: max(n.Line, 1), Column: max(n.Column, 1), Field: field}
}

func (r *reader) fail(n *yaml.Node, field, format string, args ...any) {
	r.problems = append(r.problems, Problem{r.place(n, field), fmt.Sprintf(format, args...)})
}

func (r *reader) warn(n *yaml.Node, field, format string, args ...any) {
	r.warnings = append(r.warnings, Warning{r.place(n, field), fmt.Sprintf(format, args...)})
}

// pairs calls read for each pair of a mapping, which must have text keys without
// repetition.
func (r *reader) pairs(n *yaml.Node, field string, read func(key, value *yaml.Node, field string)) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, field, "must be a mapping (field: value), not %s", describe(n))
		return
	}
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		sub := join(field, key.Value)
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			r.fail(key, sub, "a field name must be text, not %s", describe(key))
			continue
		}
		if line, twice := lines[key.Value]; twice {
			r.fail(key, sub, "is given twice, first on line %d", line)
			continue
		}
		lines[key.Value] = key.Line
		read(key, value, sub)
	}
}

// list calls read for each item of a list within the bounds. An empty list is an
// error that says what to write instead.
func (r *reader) list(n *yaml.Node, field string, b bounds, read func(item *yaml.Node, field string)) {
	switch {
	case n.Kind != yaml.SequenceNode:
		r.fail(n, field, "must be a list, not %s", describe(n))
	case len(n.Content) < b.minItems:
		r.fail(n, field, "is empty: %s", b.empty)
	case b.maxItems > 0 && len(n.Content) > b.maxItems:
		r.fail(n, field, "has %d entries, at most %d are allowed", len(n.Content), b.maxItems)
	default:
		for i, item := range n.Content {
			read(item, field+"["+strconv.Itoa(i)+"]")
		}
	}
}

// text reads a string of at most limit bytes.
func (r *reader) text(n *yaml.Node, field string, limit int) (string, bool) {
	switch {
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str":
		r.fail(n, field, "must be text, not %s", describe(n))
	case len(n.Value) > limit:
		r.fail(n, field, "has %d bytes, at most %d are allowed", len(n.Value), limit)
	case strings.ContainsFunc(n.Value, func(c rune) bool { return c == unicode.ReplacementChar || !unicode.IsGraphic(c) }):
		r.fail(n, field, "holds a control character, or another that cannot be shown")
	default:
		return n.Value, true
	}
	return "", false
}

// choice reads one of a few words.
func (r *reader) choice(n *yaml.Node, field string, words ...string) string {
	text, ok := r.text(n, field, maxName)
	if ok && !slices.Contains(words, text) {
		r.fail(n, field, "%q is unknown; it may be %s%s", text, strings.Join(words, ", "), meant(text, words))
		return ""
	}
	return text
}

// meant returns the nearest of the words, as a question at the end of a message.
func meant(text string, words []string) string {
	if near := Nearest(text, words); near != "" {
		return " (did you mean " + near + "?)"
	}
	return ""
}

func (r *reader) boolean(n *yaml.Node, field string) bool {
	value := strings.ToLower(n.Value)
	switch {
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool":
		r.fail(n, field, "must be true or false, not %s", describe(n))
	case value != "true" && value != "false": // as with a tag of its own: !!bool yes
		r.fail(n, field, "must be true or false, not %q", n.Value)
	}
	return value == "true"
}

// join appends a key to a field path. A key that would give the path a second
// reading, or a terminal something to obey, is quoted.
func join(field, key string) string {
	if len(key) > maxName {
		key = key[:maxName] + "…"
	}
	if key == "" || strings.ContainsFunc(key, func(c rune) bool { return !isKeyRune(c) }) {
		key = strconv.QuoteToASCII(key)
	}
	if field == "" {
		return key
	}
	return field + "." + key
}

func isKeyRune(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// describe says what a node is, for "must be …, not …".
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!str":
		return "text"
	case "!!int":
		return "a number"
	case "!!float":
		return "a fractional number"
	case "!!bool":
		return "true or false (quote it, if it is text)"
	case "!!timestamp":
		return "a date (quote it, if it is text)"
	}
	return "a value with the tag " + strconv.QuoteToASCII(n.ShortTag())
}

// Nearest returns the known name that was probably meant; "" where none is near.
func Nearest(name string, known []string) string {
	if len(name) > maxName {
		return ""
	}
	best, distance := "", max(1, len(name)/3)+1
	for _, candidate := range known {
		d := editDistance(name, candidate)
		if d < distance || d == distance && best != "" && candidate < best {
			best, distance = candidate, d
		}
	}
	return best
}

// editDistance counts the single-byte edits that turn a into b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
