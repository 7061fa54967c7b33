package policy

import (
	"regexp"
	"strings"
)

// pathExpression returns the regular expression, without anchors, that matches
// what a glob over paths matches: * is any run of bytes without a slash, ** any
// number of segments and none (so /a/** is /a too), ** beside other bytes anything.
// It is the only matcher of paths, those of programs and those of requests; a text
// without a star matches itself.
func pathExpression(glob string) string {
	for strings.Contains(glob, "/**/**") { // any number of directories, twice
		glob = strings.ReplaceAll(glob, "/**/**", "/**")
	}
	if above, below := strings.CutSuffix(glob, "/**"); below && above != "" {
		return pathGlobs.Replace(regexp.QuoteMeta(above)) + `(?:/.*)?`
	}
	return pathGlobs.Replace(regexp.QuoteMeta(glob))
}

// valueExpression is the same for a value without structure: a star is anything.
func valueExpression(glob string) string {
	for strings.Contains(glob, "**") {
		glob = strings.ReplaceAll(glob, "**", "*")
	}
	return strings.ReplaceAll(regexp.QuoteMeta(glob), `\*`, `.*`)
}

var pathGlobs = strings.NewReplacer(`/\*\*/`, `/(?:.*/)?`, `\*\*`, `.*`, `\*`, `[^/]*`)

// anyOf returns one anchored expression for several, so that a text is matched
// once; "" without any.
//
// s: a text may hold a newline. A program's path is bytes; an invalid one is one
// character to RE2, which is what a star should take.
func anyOf(expressions []string) string {
	if len(expressions) == 0 {
		return ""
	}
	return `(?s)^(?:` + strings.Join(expressions, "|") + `)$`
}
