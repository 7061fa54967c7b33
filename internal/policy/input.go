package policy

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/ringfence/ringfence/internal/flow"
)

// The field names of the input, made once.
var (
	keyAddress   = ast.StringTerm("address")
	keyAncestors = ast.StringTerm("ancestors")
	keyExec      = ast.StringTerm("exec")
	keyHost      = ast.StringTerm("host")
	keyLinks     = ast.StringTerm("links")
	keyMethod    = ast.StringTerm("method")
	keyNetwork   = ast.StringTerm("network")
	keyPath      = ast.StringTerm("path")
	keyPort      = ast.StringTerm("port")
	keyQuery     = ast.StringTerm("query")
	keyRequest   = ast.StringTerm("request")
	keySHA256    = ast.StringTerm("sha256")
	keyTaints    = ast.StringTerm("taints")
	keyUID       = ast.StringTerm("uid")
)

// connectionInput returns the input of a decision as OPA's own values: the detour
// over JSON would cost more than the decision, and loses bytes that are no UTF-8.
//
// Nothing may stand in it that flow.IdentityKey, the target and the generation do
// not cover, for these are what decisions are cached by.
func connectionInput(id *flow.Identity, target flow.Target, links linkTable) ast.Object {
	ancestors := make([]*ast.Term, len(id.Ancestors))
	for i, image := range id.Ancestors {
		ancestors[i] = ast.ObjectTerm(imageFields(image, links)...)
	}
	exec := append(imageFields(id.Image, links),
		ast.Item(keyAncestors, ast.ArrayTerm(ancestors...)),
		ast.Item(keyUID, ast.UIntNumberTerm(uint64(id.UID))))
	network := [][2]*ast.Term{
		ast.Item(keyHost, ast.StringTerm(target.Host)),
		ast.Item(keyPort, ast.InternedTerm(int(target.Port))),
	}
	if target.Addr.IsValid() {
		network = append(network, ast.Item(keyAddress, ast.StringTerm(target.Addr.String())))
	}
	return ast.NewObject(
		ast.Item(keyExec, ast.ObjectTerm(exec...)),
		ast.Item(keyNetwork, ast.ObjectTerm(network...)))
}

// requestInput is the same for one request on the connection.
func requestInput(id *flow.Identity, target flow.Target, links linkTable, request flow.Request) ast.Object {
	input := connectionInput(id, target, links)
	query := ast.NewObject()
	for key, values := range request.Query {
		terms := make([]*ast.Term, len(values))
		for i, value := range values {
			terms[i] = ast.StringTerm(value)
		}
		query.Insert(ast.StringTerm(key), ast.ArrayTerm(terms...))
	}
	input.Insert(keyRequest, ast.ObjectTerm(
		ast.Item(keyMethod, ast.StringTerm(request.Method)),
		ast.Item(keyPath, ast.StringTerm(request.Path)),
		ast.Item(keyQuery, ast.NewTerm(query))))
	return input
}

func imageFields(image flow.Image, links linkTable) [][2]*ast.Term {
	fields := [][2]*ast.Term{
		ast.Item(keyPath, ast.StringTerm(image.Path)),
		ast.Item(keyTaints, taintNames(image.Taints)),
	}
	if image.SHA256 != "" {
		fields = append(fields, ast.Item(keySHA256, ast.StringTerm(image.SHA256)))
	}
	if names := links[image.Path]; names != nil {
		fields = append(fields, ast.Item(keyLinks, names))
	}
	return fields
}

func taintNames(taints flow.Taint) *ast.Term {
	names := taints.Names()
	if names == nil {
		return ast.InternedEmptyArray
	}
	terms := make([]*ast.Term, len(names))
	for i, name := range names {
		terms[i] = ast.StringTerm(name)
	}
	return ast.ArrayTerm(terms...)
}

// nameInput returns the input of the question whether a name is declared.
func nameInput(name string) ast.Value {
	return ast.NewObject(ast.Item(keyNetwork,
		ast.ObjectTerm(ast.Item(keyHost, ast.StringTerm(name)))))
}

// errAnswer is a result of the Rego module that is not the document it promises.
var errAnswer = errors.New("unexpected answer of the rego module")

// readAnswer reads the document that the modules call decision. The reasons are
// written in Rego as in flow.
func readAnswer(results rego.ResultSet) (*flow.Decision, error) {
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return nil, fmt.Errorf("%d results: %w", len(results), errAnswer)
	}
	answer, ok := results[0].Expressions[0].Value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("no object: %w", errAnswer)
	}
	text := func(field string) string {
		value, isText := answer[field].(string)
		ok = ok && isText
		return value
	}
	d := &flow.Decision{
		Verdict:  verdictOf(text("verdict")),
		Reason:   flow.Reason(text("reason")),
		Policy:   text("policy"),
		Endpoint: text("endpoint"),
	}
	d.Rule, _ = answer["rule"].(string) // only of requests
	inspect, okInspect := answer["inspect"].(bool)
	allowed, okAllowed := answer["allowed_ips"].([]any)
	if !ok || !okInspect || !okAllowed {
		return nil, fmt.Errorf("missing field: %w", errAnswer)
	}
	d.Inspect = inspect
	for _, item := range allowed {
		text, _ := item.(string)
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("allowed_ips: %w", err)
		}
		d.AllowedIPs = append(d.AllowedIPs, p)
	}
	if objections, ok := answer["objections"].([]any); ok {
		d.Hint = objectionHint(objections)
	}
	return d, nil
}

// verdictOf denies for any word that it does not know.
func verdictOf(word string) flow.Verdict {
	switch word {
	case flow.Allow.String():
		return flow.Allow
	case flow.Audit.String():
		return flow.Audit
	}
	return flow.Deny
}
