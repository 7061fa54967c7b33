package policy

import (
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// binary is one program that a network policy is for: an exact path, or a glob
// where it holds a star (* within a segment, ** across).
type binary string

func (b binary) glob() bool { return strings.Contains(string(b), "*") }

// binary reads one item of binaries.
func (r *reader) binary(n *yaml.Node, field string) binary {
	var b binary
	seen := r.mapping(n, field, fields{
		"path":    func(v *yaml.Node, f string) { b = r.binaryPath(v, f) },
		"harness": r.boolean, // of the schema; it never meant anything
	})
	if n.Kind == yaml.MappingNode && seen["path"] == nil {
		r.fail(n, field, "has no path")
	}
	return b
}

// binaryPath reads a path as the kernel writes those of program images, so one
// that is not absolute and clean is refused: it would never match.
func (r *reader) binaryPath(n *yaml.Node, field string) binary {
	text, ok := r.text(n, field, maxPath)
	if !ok {
		return ""
	}
	switch {
	case !strings.HasPrefix(text, "/"):
		r.fail(n, field, "%q never matches: a path starts with /", text)
	case text == "/" || path.Clean(text) != text:
		r.fail(n, field, "%q never matches: write the path of a file, without . and .. and //", text)
	case strings.Contains(text, "***"):
		r.fail(n, field, "%q has more than two stars in a row", text)
	default:
		return binary(text)
	}
	return ""
}

// expression returns the regular expression, without anchors, that matches what
// the glob matches: * is any run of bytes without a slash, **/ any number of
// directories, ** else anything. It and the map of exact paths are the only
// matcher of paths.
func (b binary) expression() string {
	glob := string(b)
	for strings.Contains(glob, "/**/**") { // any number of directories, twice
		glob = strings.ReplaceAll(glob, "/**/**", "/**")
	}
	return globs.Replace(regexp.QuoteMeta(glob))
}

var globs = strings.NewReplacer(`/\*\*/`, `/(?:.*/)?`, `\*\*`, `.*`, `\*`, `[^/]*`)

// joinGlobs returns one anchored expression for all globs of a policy, so that a
// path is matched once; empty without any.
func joinGlobs(binaries []binary) string {
	var expressions []string
	for _, b := range binaries {
		if b.glob() {
			expressions = append(expressions, b.expression())
		}
	}
	if expressions == nil {
		return ""
	}
	// s: a path may hold a newline. The image's path is bytes; an invalid byte is
	// one character to RE2, which is what a star should take.
	return `(?s)^(?:` + strings.Join(expressions, "|") + `)$`
}
