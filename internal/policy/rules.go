package policy

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// The rules of request inspection are checked and not kept: until requests are
// inspected, their endpoint denies everything.

// ruleBytes bounds a method, path or query pattern.
const ruleBytes = 4096

func (r *reader) allowRules(n *yaml.Node, field string) {
	r.list(n, field, maxItems, "write \"access: full\" to allow every request", func(item *yaml.Node, f string) {
		seen := r.mapping(item, f, fields{"allow": r.rule})
		if item.Kind == yaml.MappingNode && seen["allow"] == nil {
			r.fail(item, f, "has no allow")
		}
	})
}

func (r *reader) denyRules(n *yaml.Node, field string) {
	r.list(n, field, maxItems, "remove the field", r.rule)
}

// rule reads one {method, path, query}.
func (r *reader) rule(n *yaml.Node, field string) {
	r.mapping(n, field, fields{
		"method": r.method,
		"path":   func(v *yaml.Node, f string) { r.requestPath(v, f) },
		"query":  r.query,
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		r.fail(n, field, "is empty: name a method or a path")
	}
}

func (r *reader) method(n *yaml.Node, field string) {
	method, ok := r.text(n, field, 32)
	if ok && method != "*" && (method == "" || strings.ContainsFunc(method, func(c rune) bool { return !isKeyRune(c) })) {
		r.fail(n, field, "%q is not a method; write one, or * for any", method)
	}
}

// requestPath reads a pattern for the path of a request.
func (r *reader) requestPath(n *yaml.Node, field string) string {
	path, ok := r.text(n, field, ruleBytes)
	if ok && !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "**") {
		r.fail(n, field, "%q never matches: a path starts with / or **", path)
	}
	return path
}

// query reads patterns by key: a glob, or {any: [glob, …]}.
func (r *reader) query(n *yaml.Node, field string) {
	r.pairs(n, field, func(_, value *yaml.Node, f string) {
		if value.Kind != yaml.MappingNode {
			r.text(value, f, ruleBytes)
			return
		}
		seen := r.mapping(value, f, fields{"any": func(v *yaml.Node, f string) {
			r.list(v, f, maxItems, "name the values", func(item *yaml.Node, f string) { r.text(item, f, ruleBytes) })
		}})
		if seen["any"] == nil {
			r.fail(value, f, "has no any")
		}
	})
}
