// Package policies holds what ships inside the program: the Rego that decides,
// and the policies that are there without a file.
//
// It is data. Code that reads it stands in internal/policy.
package policies

import (
	"embed"
	"slices"
	"strings"
)

// Network is the Rego module that decides connections.
//
//go:embed network.rego
var Network string

// Request is the Rego module that decides single requests.
//
//go:embed request.rego
var Request string

// Schema is the JSON Schema of a policy file, generated from the types of
// internal/policy.
//
//go:embed policy.schema.json
var Schema []byte

// Default is the policy that applies where none was named.
//
//go:embed default.yaml
var Default []byte

//go:embed *.yaml
var shipped embed.FS

const extension = ".yaml"

// Shipped is one policy that is there without a file.
type Shipped struct {
	Name    string // what --policy takes
	Summary string // one sentence
	Data    []byte // YAML; the caller's own copy
}

// All returns the shipped policies, sorted by name.
func All() []Shipped {
	entries, _ := shipped.ReadDir(".") // part of the program, so it is there
	var all []Shipped
	for _, entry := range entries {
		if one, ok := Lookup(strings.TrimSuffix(entry.Name(), extension)); ok {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b Shipped) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Lookup returns the shipped policy of a name, as All names them.
func Lookup(name string) (Shipped, bool) {
	data, err := shipped.ReadFile(name + extension)
	if err != nil {
		return Shipped{}, false
	}
	return Shipped{Name: name, Summary: summary(data), Data: data}, true
}

// summary returns the first line of a policy, which is a comment.
func summary(data []byte) string {
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimPrefix(line, "# ")
}
