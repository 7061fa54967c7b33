package policy

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ringfence/ringfence/policies"
)

// customPackage is the only package that an operator's modules may define: what
// they deny there is denied, and nothing can be allowed.
const customPackage = "ringfence.custom"

// What the modules of policies are called in messages.
const (
	networkPackage = "ringfence.network"
	networkFile    = "network.rego"
	customPrefix   = "custom/" // of the operator's
	requestFile    = "request.rego"
)

// MaxModules is how many modules of the operator's a policy may have.
const MaxModules = 64

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
	narrowed.modules, narrowed.form = nil, &form{}
	if len(sources) == 0 {
		return &narrowed, nil
	}
	if len(sources) > MaxModules {
		return nil, errors.New("load rego: more than " + strconv.Itoa(MaxModules) + " modules")
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
		var compiler *ast.Compiler
		if compiler, problems = compile(narrowed.modules); problems == nil {
			problems = checkRefs(compiler)
		}
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
	for name, text := range map[string]string{networkFile: policies.Network, requestFile: policies.Request} {
		m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, regoProblems(name, err)
		}
		parsed[name] = m
	}
	for i, m := range modules {
		// A file may have the name of one of ours, or that of another in another folder.
		parsed[customPrefix+strconv.Itoa(i)+"/"+m.name] = m.ast.Copy()
	}
	compiler := ast.NewCompiler().WithCapabilities(pureCapabilities()).WithStrict(true).
		WithDefaultRegoVersion(ast.RegoV1).WithSchemas(inputSchema())
	if compiler.Compile(parsed); compiler.Failed() {
		return nil, regoProblems("rego", compiler.Errors)
	}
	return compiler, nil
}

// inputSchema says what the input holds, so that a module which asks for anything
// else does not load: it would be undefined, and never deny.
func inputSchema() *ast.SchemaSet {
	text := map[string]any{"type": "string"}
	number := map[string]any{"type": "integer"}
	list := func(items any) map[string]any { return map[string]any{"type": "array", "items": items} }
	object := func(properties map[string]any) map[string]any {
		return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	}
	image := func(more map[string]any) map[string]any {
		properties := map[string]any{
			"path": text, "taints": list(text), "sha256": text,
			"links": list(object(map[string]any{"path": text, "taints": list(text)})),
		}
		maps.Copy(properties, more)
		return object(properties)
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, object(map[string]any{
		"exec":    image(map[string]any{"uid": number, "ancestors": list(image(nil))}),
		"network": object(map[string]any{"host": text, "port": number, "address": text}),
		"request": object(map[string]any{
			"method": text, "path": text,
			"query": map[string]any{"type": "object", "additionalProperties": list(text)},
		}),
	}))
	return set
}

// pureCapabilities are all builtins whose answer depends on their operands alone.
// Decisions are remembered, so nothing may ask the clock, a die or the network.
func pureCapabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		// bits.lsh makes numbers of any size, and no time bound ends it.
		return b.Nondeterministic || b.Name == "print" || b.Name == "trace" || b.Name == "bits.lsh"
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

// regoProblems turns the errors of OPA's parser and compiler into problems. Where
// a module of the operator's is at fault, what is said of ours does not help.
func regoProblems(name string, err error) LoadError {
	var many ast.Errors
	var one *ast.Error
	switch {
	case errors.As(err, &many):
	case errors.As(err, &one):
		many = ast.Errors{one}
	default:
		return LoadError{{Place{File: name, Line: 1, Column: 1}, oneLine(err.Error())}}
	}
	var theirs, ours LoadError
	for _, e := range many {
		place := placeOf(e.Location)
		if place.File == "" || e.Location == nil {
			place.File = name
		}
		problem := Problem{place, e.Code + ": " + oneLine(e.Message)}
		if e.Code == ast.RecursionErr {
			problem.Message += "; read data." + networkPackage + ".ruling instead of the decision"
		}
		if place.File == networkFile || place.File == requestFile {
			ours = append(ours, problem)
		} else {
			theirs = append(theirs, problem)
		}
	}
	if theirs != nil {
		return theirs
	}
	return ours
}

// oneLine quotes what a terminal would obey in a message that has the operator's
// text in it.
func oneLine(message string) string {
	quoted := strconv.QuoteToGraphic(strings.Join(strings.Fields(message), " "))
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
