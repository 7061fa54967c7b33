package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ringfence/ringfence/internal/flow"
)

// Link is a path of a policy that is a symbolic link in the sandbox. The image of
// /usr/bin/python3 is the file it leads to, so the policy is meant for that file.
type Link struct {
	Path   string // as the policy writes it
	Target string // where it leads, all links followed, as seen from inside
	// Writable is true where the sandbox's user can change what Path leads to. It
	// then stands for its target only for binaries that put up with that taint: the
	// sandbox would else choose what the policy means.
	Writable bool
}

// SortLinks brings links into the order in which lists of them are compared.
func SortLinks(links []Link) {
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Path, b.Path) })
}

// linkTable has, by target, the links that lead there in the form of the input.
type linkTable map[string]*ast.Term

func newLinkTable(links []Link) linkTable {
	byTarget := map[string][]*ast.Term{}
	for _, link := range links {
		if link.Target == link.Path {
			continue // no link
		}
		taints := flow.Taint(0)
		if link.Writable {
			taints = flow.TaintWritable
		}
		byTarget[link.Target] = append(byTarget[link.Target], ast.ObjectTerm(
			ast.Item(keyPath, ast.StringTerm(link.Path)),
			ast.Item(keyTaints, taintNames(taints))))
	}
	table := linkTable{}
	for target, terms := range byTarget {
		table[target] = ast.ArrayTerm(terms...)
	}
	return table
}
