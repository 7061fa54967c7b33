package policy

import "regexp"

// namedPrograms are the binaries of a policy, whatever their conditions.
type namedPrograms struct {
	paths map[string]bool
	globs *regexp.Regexp // nil where there are none
}

func newNamedPrograms(p *Policy) (namedPrograms, error) {
	x := namedPrograms{paths: map[string]bool{}}
	var globs []string
	for i := range p.networks {
		for _, b := range p.networks[i].Binaries {
			if b.Path.IsGlob() {
				globs = append(globs, pathExpression(string(b.Path)))
			} else {
				x.paths[string(b.Path)] = true
			}
		}
	}
	if globs == nil {
		return x, nil
	}
	var err error
	x.globs, err = regexp.Compile(anyOf(globs))
	return x, err
}

func (x namedPrograms) name(path string) bool {
	return x.paths[path] || x.globs != nil && x.globs.MatchString(path)
}

// Names reports whether any binary of the policy in force may stand for a program's
// path, by itself or by a symbolic link: of others nothing need be known.
func (e *Engine) Names(path string) bool {
	g := e.current.Load()
	return g.named.name(path) || g.links[path] != nil
}
