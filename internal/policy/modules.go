package policy

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ringfence/ringfence/policies"
)

// customPackage is the only package that an operator's modules may define: what
// they deny there is denied, and nothing can be allowed.
const customPackage = "ringfence.custom"

const maxModules = 64

// module is one Rego module of the operator's.
type module struct {
	name string
	ast  *ast.Module
}

// WithModules returns the policy narrowed by Rego modules of the operator's: each
// member of the set data.ringfence.custom.deny is a reason to deny a connection
// or a request that the policy allows.
//
// The error is a LoadError with everything that is wrong in all modules.
func (p *Policy) WithModules(sources []Source) (*Policy, error) {
	narrowed := *p
	narrowed.modules = nil
	if len(sources) == 0 {
		return &narrowed, nil
	}
	if len(sources) > maxModules {
		return nil, errors.New("load rego: more than " + strconv.Itoa(maxModules) + " modules")
	}
	var problems LoadError
	for _, source := range sources {
		m, faults := parseModule(source)
		problems = append(problems, faults...)
		narrowed.modules = append(narrowed.modules, module{source.Name, m})
	}
	if len(problems) == 0 {
		problems = checkDeny(narrowed.modules)
	}
	if len(problems) == 0 {
		_, problems = compile(narrowed.modules)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return &narrowed, nil
}

// parseModule reads one module, which must keep to its package.
func parseModule(source Source) (*ast.Module, LoadError) {
	whole := Place{File: source.Name, Line: 1, Column: 1}
	if len(source.Data) > MaxFile {
		return nil, LoadError{{whole, "has " + strconv.Itoa(len(source.Data)) + " bytes, at most " + strconv.Itoa(MaxFile) + " are allowed"}}
	}
	m, err := ast.ParseModuleWithOpts(source.Name, string(source.Data), ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, regoProblems(source.Name, err)
	}
	if m == nil {
		return nil, LoadError{{whole, "is empty"}}
	}
	if name := strings.TrimPrefix(m.Package.Path.String(), "data."); name != customPackage && !strings.HasPrefix(name, customPackage+".") {
		return nil, LoadError{{placeOf(m.Package.Location), "is package " + strconv.QuoteToASCII(name) + "; write \"package " + customPackage + "\": modules can only narrow what a policy allows"}}
	}
	return m, nil
}

// checkDeny makes sure that there is a deny, and that it is a set: of another form
// nothing would be denied, without a word.
func checkDeny(modules []module) LoadError {
	defined := false
	var problems LoadError
	for _, m := range modules {
		if strings.TrimPrefix(m.ast.Package.Path.String(), "data.") != customPackage {
			continue
		}
		for _, rule := range m.ast.Rules {
			if !rule.Head.Ref()[0].Equal(ast.VarTerm("deny")) {
				continue
			}
			defined = true
			if rule.Head.RuleKind() != ast.MultiValue || len(rule.Head.Ref()) > 1 {
				problems = append(problems, Problem{placeOf(rule.Location), "deny must be a set of messages: write \"deny contains message if { ... }\""})
			}
		}
	}
	if !defined {
		problems = append(problems, Problem{Place{File: modules[0].name, Line: 1, Column: 1}, "no module defines deny in package " + customPackage + ", so they would do nothing"})
	}
	return problems
}

// compile compiles what decides together with the operator's modules.
func compile(modules []module) (*ast.Compiler, LoadError) {
	parsed := map[string]*ast.Module{}
	for name, text := range map[string]string{"network.rego": policies.Network, "request.rego": policies.Request} {
		m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, regoProblems(name, err)
		}
		parsed[name] = m
	}
	for i, m := range modules {
		// A file may have the name of one of ours, or that of another in another folder.
		parsed["custom/"+strconv.Itoa(i)+"/"+m.name] = m.ast.Copy()
	}
	compiler := ast.NewCompiler().WithCapabilities(pureCapabilities()).WithStrict(true).WithDefaultRegoVersion(ast.RegoV1)
	if compiler.Compile(parsed); compiler.Failed() {
		return nil, regoProblems("rego", compiler.Errors)
	}
	return compiler, nil
}

// pureCapabilities are all builtins whose answer depends on their operands alone.
// Decisions are remembered, so nothing may ask the clock, a die or the network.
func pureCapabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return b.Nondeterministic || b.Name == "print" || b.Name == "trace"
	})
	c.AllowNet = []string{}
	return c
}

func placeOf(l *ast.Location) Place {
	if l == nil {
		return Place{File: "rego", Line: 1, Column: 1}
	}
	return Place{File: l.File, Line: max(l.Row, 1), Column: max(l.Col, 1)}
}

// regoProblems turns the errors of OPA's parser and compiler into problems.
func regoProblems(name string, err error) LoadError {
	var many ast.Errors
	if !errors.As(err, &many) {
		return LoadError{{Place{File: name, Line: 1, Column: 1}, oneLine(err.Error())}}
	}
	var problems LoadError
	for _, e := range many {
		place := placeOf(e.Location)
		if e.Location == nil {
			place.File = name
		}
		problems = append(problems, Problem{place, e.Code + ": " + oneLine(e.Message)})
	}
	return problems
}

// oneLine quotes what a terminal would obey in a message that has the operator's
// text in it.
func oneLine(message string) string {
	quoted := strconv.QuoteToGraphic(message)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
