// Package policy judges connections: it reads the policy YAML, compiles it into
// one immutable generation, and asks OPA which of its endpoints, if any, lets a
// program image connect to a target.
//
// The way through it is Load (sources to Policy), NewEngine (Policy to
// generation) and Engine.Decide. What a policy means is written in Rego, in the
// folder policies of the module; this package turns globs into anchored
// expressions and lists into indexes, so that the Rego has only to look things
// up. Nothing here opens files, resolves names or knows the special-purpose
// addresses of an operator: a decision depends on the policy, the identity and
// the target alone.
//
// A field of the file goes through document.go (its type, its comment, its tags),
// decode.go (which reads any type), a check beside the type that it belongs to,
// conflict.go where equally specific endpoints must agree on it, index.go, the
// Rego, and explain.go or explain_request.go, which must say the same. After that
// the JSON Schema is generated anew (go test -run Schema -update).
//
// What cannot be enforced as it is written is refused, or loads with a warning and
// denies. Of files and of the user, it only says what the policy says.
package policy

import "slices"

// Policy is a set of network policies and the user they are meant for, loaded
// from one or more sources. It is immutable.
type Policy struct {
	filesystem *Filesystem
	landlock   *Landlock
	process    *Process
	networks   []Network // sorted by name, then key
	modules    []module  // the operator's own Rego
	// form is what engines evaluate: they share it, as many as have this policy.
	form *form
}

// Process returns the user and group that the policy names, as a name or a
// decimal number each; empty where it names none.
func (p *Policy) Process() (user, group string) {
	if p.process == nil {
		return "", ""
	}
	return string(p.process.RunAsUser), string(p.process.RunAsGroup)
}

// Files is what a policy says of files.
type Files struct {
	ReadOnly, ReadWrite []string
	IncludeWorkdir      bool // the working directory may be written as well
}

// Files returns what the policy says of files; false where it says nothing, and
// they are not restricted.
func (p *Policy) Files() (Files, bool) {
	f := p.filesystem
	if f == nil {
		return Files{}, false
	}
	files := Files{IncludeWorkdir: f.IncludeWorkdir}
	for _, path := range f.ReadOnly {
		files.ReadOnly = append(files.ReadOnly, string(path))
	}
	for _, path := range f.ReadWrite {
		files.ReadWrite = append(files.ReadWrite, string(path))
	}
	return files, true
}

// LandlockRequired reports whether nothing may start where the files cannot be
// restricted as the policy says.
func (p *Policy) LandlockRequired() bool {
	return p.landlock != nil && p.landlock.Compatibility == hardRequirement
}

// SameFiles reports whether two policies say the same of files, in the same order
// or another.
func (p *Policy) SameFiles(other *Policy) bool {
	mine, restricted := p.Files()
	theirs, othersRestricted := other.Files()
	for _, list := range [][]string{mine.ReadOnly, mine.ReadWrite, theirs.ReadOnly, theirs.ReadWrite} {
		slices.Sort(list)
	}
	return restricted == othersRestricted && mine.IncludeWorkdir == theirs.IncludeWorkdir &&
		slices.Equal(mine.ReadOnly, theirs.ReadOnly) && slices.Equal(mine.ReadWrite, theirs.ReadWrite) &&
		p.LandlockRequired() == other.LandlockRequired()
}

// ExactPaths returns the paths of programs that are written without a star, each
// once: those that may be symbolic links in a sandbox.
func (p *Policy) ExactPaths() []string {
	var paths []string
	for i := range p.networks {
		for _, b := range p.networks[i].Binaries {
			if !b.Path.IsGlob() {
				paths = append(paths, string(b.Path))
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// Len returns how many network policies there are.
func (p *Policy) Len() int { return len(p.networks) }
