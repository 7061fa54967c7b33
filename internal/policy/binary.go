package policy

import (
	"path"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/flow"
)

// BinaryPath is the path of a program image: exact, or a glob where it holds a
// star.
type BinaryPath string

// IsGlob reports whether the path may stand for several files.
func (p BinaryPath) IsGlob() bool { return strings.Contains(string(p), "*") }

// read takes a path as the kernel writes those of program images, so one that is
// not absolute and clean is refused: it would never match.
func (p *BinaryPath) read(r *reader, n *yaml.Node, field string) {
	text, ok := r.text(n, field, maxPath)
	switch {
	case !ok:
	case !strings.HasPrefix(text, "/"):
		r.fail(n, field, "%q never matches: a path starts with /", text)
	case text == "/" || path.Clean(text) != text:
		r.fail(n, field, "%q never matches: write the path of a file, without . and .. and //", text)
	case strings.Contains(text, "***"):
		r.fail(n, field, "%q has more than two stars in a row", text)
	default:
		if strings.ContainsAny(text, "?[]{}") {
			r.warn(n, field, "%q: only * and ** stand for something else, so this names a file with such characters", text)
		}
		*p = BinaryPath(text)
	}
}

func (*Binary) example() string { return "- path: /usr/bin/git" }

// Digest is a SHA-256 in lower-case hexadecimal digits.
type Digest string

func (d *Digest) read(r *reader, n *yaml.Node, field string) {
	// Digits alone are a number to YAML, and as good a digest.
	text := strings.ToLower(n.Value)
	if n.Kind != yaml.ScalarNode || len(text) != 64 || strings.Trim(text, "0123456789abcdef") != "" {
		r.fail(n, field, "is not a SHA-256: write 64 hexadecimal digits, as sha256sum prints them")
		return
	}
	*d = Digest(text)
}

// TaintName is a taint that a binary may put up with.
type TaintName string

func (t *TaintName) read(r *reader, n *yaml.Node, field string) {
	text, ok := r.text(n, field, maxName)
	if !ok {
		return
	}
	taint, known := flow.ParseTaint(text)
	switch {
	case !known:
		r.fail(n, field, "%q is no taint; there are %s%s", text, strings.Join(liftable(), ", "), meant(text, liftable()))
	case flow.NotedTaints.Has(taint):
		r.fail(n, field, "%s keeps no program from matching; remove it", text)
	case !taint.Liftable():
		r.fail(n, field, "%s is never put up with: the program's path could be anybody's", text)
	default:
		*t = TaintName(text)
	}
}

// liftable returns the names of the taints that a binary may put up with.
func liftable() []string { return flow.LiftableTaints.Names() }
