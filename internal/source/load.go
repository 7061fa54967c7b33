package source

import (
	"errors"

	"github.com/ringfence/ringfence/internal/policy"
)

// Load makes a policy of what was read. The error is a policy.LoadError with all
// that is wrong, in the policies and in the modules.
func (c Content) Load() (*policy.Policy, []policy.Warning, error) {
	p, warnings, err := policy.Load(c.Policies...)
	narrowed := p
	if err != nil {
		narrowed = &policy.Policy{} // modules can be told what is wrong with them all the same
	}
	narrowed, moduleErr := narrowed.WithModules(c.Modules)
	var problems, more policy.LoadError
	switch {
	case errors.As(err, &problems) && errors.As(moduleErr, &more):
		return nil, warnings, append(problems, more...)
	case err != nil:
		return nil, warnings, err
	case moduleErr != nil:
		return nil, warnings, moduleErr
	}
	return narrowed, warnings, nil
}
