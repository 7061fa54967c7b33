package policy

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// rulePatternBytes bounds a path or query pattern.
const rulePatternBytes = 4096

// Method is an HTTP method in capitals, * for any, or nothing for the same.
type Method string

// read takes a method in either case: those of requests are in capitals, and one
// that is not is another method.
func (m *Method) read(r *reader, n *yaml.Node, field string) {
	text, ok := r.text(n, field, 32)
	switch {
	case !ok:
	case text != "*" && (text == "" || strings.ContainsFunc(text, func(c rune) bool { return !isKeyRune(c) })):
		r.fail(n, field, "%q is not a method; write one, or * for any", text)
	default:
		*m = Method(strings.ToUpper(text))
	}
}

// PathGlob is a pattern for the path of a request.
type PathGlob string

func (p *PathGlob) read(r *reader, n *yaml.Node, field string) {
	text, ok := r.text(n, field, rulePatternBytes)
	switch {
	case !ok:
	case !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "**"):
		r.fail(n, field, "%q never matches: a path starts with / or **", text)
	case strings.Contains(text, "***"):
		r.fail(n, field, "%q has more than two stars in a row", text)
	case strings.ContainsAny(text, `[]{}\`):
		r.fail(n, field, "%q never matches: only * and ** stand for something else", text)
	case strings.ContainsAny(text, "?#"):
		r.fail(n, field, "%q never matches: the query is not part of a path; write it under query", text)
	default:
		*p = PathGlob(text)
	}
}

// literals counts the bytes that the pattern writes out: the more, the more
// specific it is.
func (p PathGlob) literals() int { return len(p) - strings.Count(string(p), "*") }

// Matcher is what a value of the query must match: one of some globs, in which *
// is any text.
type Matcher []string

// read takes a glob, or {any: [glob, ...]}.
func (m *Matcher) read(r *reader, n *yaml.Node, field string) {
	glob := func(item *yaml.Node, f string) {
		if text, ok := r.text(item, f, rulePatternBytes); ok {
			*m = append(*m, text)
		}
	}
	if n.Kind != yaml.MappingNode {
		glob(n, field)
		return
	}
	found := false
	r.pairs(n, field, func(key, value *yaml.Node, f string) {
		if key.Value != "any" {
			r.fail(key, f, "unknown field; a query's value is a glob, or {any: [glob, ...]}")
			return
		}
		found = true
		r.list(value, f, bounds{minItems: 1, maxItems: maxItems, empty: "name the values"}, glob)
	})
	if !found {
		r.fail(n, field, "has no any")
	}
}

// MarshalYAML writes it as it is read.
func (m Matcher) MarshalYAML() (any, error) {
	if len(m) == 1 {
		return m[0], nil
	}
	return map[string][]string{"any": m}, nil
}

// expression returns the anchored expression for a value.
func (m Matcher) expression() string {
	expressions := make([]string, len(m))
	for i, glob := range m {
		expressions[i] = valueExpression(glob)
	}
	return anyOf(expressions)
}

// advise helps whoever writes a rule without its "allow".
func (*AllowRule) advise(name string) string {
	switch name {
	case "method", "path", "query":
		return "it belongs under allow, as in \"- allow: { method: GET, path: /v1/** }\""
	}
	return ""
}

func (rule *Rule) check(r *reader) {
	if len(rule.node.Content) == 0 {
		r.fail(rule.node, rule.place.Field, "is empty: name a method or a path")
	}
}
