package policy

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxPaths bounds the paths of filesystem_policy, both lists together.
const maxPaths = 256

// process reads the user and group that the sandbox's programs are to have.
func (r *reader) process(n *yaml.Node, field string) (user, group string) {
	r.mapping(n, field, fields{
		"run_as_user":  func(v *yaml.Node, f string) { user = r.account(v, f) },
		"run_as_group": func(v *yaml.Node, f string) { group = r.account(v, f) },
	})
	return user, group
}

// account reads a name or a number from 1. Root has no place in a sandbox.
func (r *reader) account(n *yaml.Node, field string) string {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		// The last two values of the type mean "no change" and "overflow" to system calls.
		id, err := strconv.ParseUint(n.Value, 10, 32)
		switch {
		case err == nil && id == 0:
			r.fail(n, field, "0 is root, which a sandbox may not be")
		case err != nil || id >= 1<<32-1 || n.Value[0] == '0':
			r.fail(n, field, "%q is not a number from 1 to %d", n.Value, uint32(1<<32-2))
		}
		return n.Value
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
	return name
}

// filesystem checks filesystem_policy, which is not enforced yet.
func (r *reader) filesystem(n *yaml.Node, field string) {
	total := 0
	paths := func(writable bool) func(*yaml.Node, string) {
		return func(v *yaml.Node, f string) {
			r.list(v, f, maxPaths, "remove the field", func(item *yaml.Node, f string) {
				total++
				r.filePath(item, f, writable)
			})
		}
	}
	r.mapping(n, field, fields{
		"include_workdir": r.boolean,
		"read_only":       paths(false),
		"read_write":      paths(true),
	})
	if total > maxPaths {
		r.fail(n, field, "has %d paths, at most %d are allowed", total, maxPaths)
	}
	r.warn(n, field, "is not enforced by this version: files are not restricted")
}

func (r *reader) filePath(n *yaml.Node, field string, writable bool) {
	path, ok := r.text(n, field, maxPath)
	switch {
	case !ok:
	case !strings.HasPrefix(path, "/"):
		r.fail(n, field, "%q is not absolute", path)
	case slices.Contains(strings.Split(path, "/"), ".."):
		r.fail(n, field, "%q holds ..", path)
	case writable && strings.Trim(path, "/.") == "":
		r.fail(n, field, "%q would make everything writable", path)
	}
}

// landlock checks how strictly files would be fenced, which they are not yet.
func (r *reader) landlock(n *yaml.Node, field string) {
	r.mapping(n, field, fields{"compatibility": func(v *yaml.Node, f string) {
		if r.choice(v, f, "best_effort", "hard_requirement") == "hard_requirement" {
			r.fail(v, f, "hard_requirement cannot be met by this version; write best_effort to run without")
		}
	}})
	r.warn(n, field, "is not enforced by this version: files are not restricted")
}
