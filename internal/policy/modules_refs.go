package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// checkRefs refuses what the operator's modules ask for that is never there. Rego
// calls it undefined, and a rule that asks for it is silent: one that should deny
// would not.
func checkRefs(compiler *ast.Compiler) LoadError {
	var problems LoadError
	for name, m := range compiler.Modules {
		if !strings.HasPrefix(name, customPrefix) {
			continue
		}
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			if why := refFault(compiler, ref); why != "" {
				problems = append(problems, Problem{placeOf(ref[0].Location), oneLine(ref.String()) + " " + why})
			}
			return false
		})
	}
	slices.SortFunc(problems, compareProblems)
	return slices.Compact(problems)
}

// refFault says why a reference leads nowhere; "" where it may lead somewhere.
func refFault(compiler *ast.Compiler, ref ast.Ref) string {
	switch {
	case ref.HasPrefix(ast.InputRootRef):
		if len(ref) > 1 && !isText(ref[1]) {
			return "asks for a part of the input that is not written out; name it"
		}
	case ref.HasPrefix(ast.DefaultRootRef):
		return dataFault(compiler, ref)
	}
	return ""
}

func dataFault(compiler *ast.Compiler, ref ast.Ref) string {
	switch {
	case ref.HasPrefix(ast.MustParseRef("data.ringfence.network.ruling")),
		ref.HasPrefix(ast.MustParseRef("data.ringfence.request.ruling")): // what is in them is the type checker's to tell
	case !ref.HasPrefix(ast.MustParseRef("data." + customPackage)):
		return "is not for modules: they may read their own rules, input, and the ruling of data.ringfence.network and data.ringfence.request"
	case len(compiler.GetRules(ref.GroundPrefix())) == 0:
		return "is undefined: no module has such a rule"
	}
	return ""
}

func isText(term *ast.Term) bool {
	_, ok := term.Value.(ast.String)
	return ok
}
