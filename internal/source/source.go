// Package source reads what a policy is made of: shipped policies by name, files,
// and a directory of Rego modules. And it tells when there is something else to
// read.
//
// It hands on bytes under the names that messages give them. What they mean is
// known to internal/policy, and what is done with a new policy to nobody here.
package source

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/policies"
)

// defaultPolicy is the shipped policy that applies where none is named.
const defaultPolicy = "default"

// Set says where a policy comes from. The zero value is the default policy alone.
type Set struct {
	Specs   []string // names of shipped policies, and paths of files
	RegoDir string   // of Rego modules; empty for none
}

// Content is what was read.
type Content struct {
	Policies []policy.Source // in the order of the specs
	Modules  []policy.Source // sorted by name
}

// Equal reports whether two contents have the same names and bytes.
func (c Content) Equal(other Content) bool {
	same := func(a, b policy.Source) bool { return a.Name == b.Name && bytes.Equal(a.Data, b.Data) }
	return slices.EqualFunc(c.Policies, other.Policies, same) && slices.EqualFunc(c.Modules, other.Modules, same)
}

// Error is an error with what a person can do about it.
type Error struct {
	Err  error
	Hint string
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Read reads everything. Where a person can do something about an error, it is an
// *Error.
func (s Set) Read() (Content, error) { return s.read(openFile) }

func (s Set) read(open opener) (Content, error) {
	var c Content
	for _, spec := range s.specs() {
		data, err := readSpec(spec, open)
		if err != nil {
			return Content{}, err
		}
		c.Policies = append(c.Policies, policy.Source{Name: spec, Data: data})
	}
	if s.RegoDir == "" {
		return c, nil
	}
	modules, err := listModules(s.RegoDir, open)
	if err != nil {
		return Content{}, err
	}
	for _, path := range modules {
		data, err := readFile(path, open)
		if err != nil {
			return Content{}, fmt.Errorf("read Rego module: %w", err)
		}
		c.Modules = append(c.Modules, policy.Source{Name: path, Data: data})
	}
	return c, nil
}

func (s Set) specs() []string {
	if len(s.Specs) == 0 {
		return []string{defaultPolicy}
	}
	return s.Specs
}

// isPath reports whether a spec looks like a path. A plain word is the name of a
// shipped policy and nothing else: a file must not be able to take its place.
func isPath(spec string) bool { return strings.ContainsAny(spec, "/.") }

func readSpec(spec string, open opener) ([]byte, error) {
	if isPath(spec) {
		data, err := readFile(spec, open)
		if err != nil {
			return nil, fmt.Errorf("read policy: %w", err)
		}
		return data, nil
	}
	if shipped, ok := policies.Lookup(spec); ok {
		return shipped.Data, nil
	}
	if spec == "" {
		return nil, &Error{fmt.Errorf("read policy: the name is empty"), "shipped are " + strings.Join(shippedNames(), ", ")}
	}
	meant := ""
	if near := policy.Nearest(spec, shippedNames()); near != "" {
		meant = "did you mean " + near + "? "
	}
	return nil, &Error{
		fmt.Errorf("read policy: no shipped policy is named %q", spec),
		fmt.Sprintf("%sshipped are %s; write ./%s for a file", meant, strings.Join(shippedNames(), ", "), spec),
	}
}

func shippedNames() (names []string) {
	for _, shipped := range policies.All() {
		names = append(names, shipped.Name)
	}
	return names
}
