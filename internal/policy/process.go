package policy

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxPaths bounds the paths of filesystem_policy, both lists together.
const maxPaths = 256

// Account is a user or a group: a name, or a decimal number.
type Account string

// read takes a name or a number from 1. Root has no place in a sandbox.
func (a *Account) read(r *reader, n *yaml.Node, field string) {
	*a = Account(n.Value)
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		// The last two values of the type mean "no change" and "overflow" to system calls.
		id, err := strconv.ParseUint(n.Value, 10, 32)
		switch {
		case err == nil && id == 0:
			r.fail(n, field, "0 is root, which a sandbox may not be")
		case err != nil || id >= 1<<32-1 || n.Value[0] == '0':
			r.fail(n, field, "%q is not a number from 1 to %d", n.Value, uint32(1<<32-2))
		}
		return
	}
	name, ok := r.text(n, field, 32)
	switch {
	case !ok:
	case name == "root":
		r.fail(n, field, "root is refused; name an unprivileged one")
	case name == "" || strings.ContainsFunc(name, func(c rune) bool { return !isKeyRune(c) && c != '.' && c != '$' }):
		r.fail(n, field, "%q is not the name of a user or group", name)
	case strings.Trim(name, "0123456789") == "":
		r.fail(n, field, "%q has two readings; write a number without quotes", name)
	}
}

// MarshalYAML writes a number as one: in quotes it would have two readings.
func (a Account) MarshalYAML() (any, error) {
	if id, err := strconv.ParseUint(string(a), 10, 32); err == nil {
		return id, nil
	}
	return string(a), nil
}

// ReadPath is an absolute path that may be read.
type ReadPath string

func (p *ReadPath) read(r *reader, n *yaml.Node, field string) { *p = ReadPath(r.filePath(n, field)) }

// WritePath is an absolute path that may be written; not the root.
type WritePath string

func (p *WritePath) read(r *reader, n *yaml.Node, field string) {
	*p = WritePath(r.filePath(n, field))
	if *p != "" && path.Clean(string(*p)) == "/" {
		r.fail(n, field, "%q would make everything writable", *p)
	}
}

func (r *reader) filePath(n *yaml.Node, field string) string {
	text, ok := r.text(n, field, maxPath)
	switch {
	case !ok:
	case !strings.HasPrefix(text, "/"):
		r.fail(n, field, "%q is not absolute; a path starts with /", text)
	case slices.Contains(strings.Split(text, "/"), ".."):
		r.fail(n, field, "%q holds ..; write where it leads", text)
	default:
		return text
	}
	return ""
}

// check bounds both lists together.
func (f *Filesystem) check(r *reader) {
	if total := len(f.ReadOnly) + len(f.ReadWrite); total > maxPaths {
		r.fail(f.node, f.place.Field, "has %d paths, at most %d are allowed", total, maxPaths)
	}
}
