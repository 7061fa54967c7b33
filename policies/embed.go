// Package policies holds what ships inside the program: the Rego that decides,
// and the policies that are there without a file.
//
// It is data. Code that reads it stands in internal/policy.
package policies

import _ "embed"

// Network is the Rego module that decides connections.
//
//go:embed network.rego
var Network string

// Default is the policy that applies where none was named.
//
//go:embed default.yaml
var Default []byte
