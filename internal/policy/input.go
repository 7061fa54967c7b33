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
	keyNetwork   = ast.StringTerm("network")
	keyPath      = ast.StringTerm("path")
	keyPort      = ast.StringTerm("port")
	keyTaints    = ast.StringTerm("taints")
	keyUID       = ast.StringTerm("uid")
)

// connectionInput returns the input of a decision as OPA's own values: the detour
// over JSON would cost more than the decision, and loses bytes that are no UTF-8.
//
// Nothing may stand in it that flow.IdentityKey and the target do not cover, for
// these are what decisions are cached by.
func connectionInput(id *flow.Identity, target flow.Target) ast.Value {
	ancestors := make([]*ast.Term, len(id.Ancestors))
	for i, image := range id.Ancestors {
		ancestors[i] = ast.ObjectTerm(imageFields(image)...)
	}
	exec := append(imageFields(id.Image),
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

func imageFields(image flow.Image) [][2]*ast.Term {
	taints := ast.InternedEmptyArray
	if names := image.Taints.Names(); names != nil {
		terms := make([]*ast.Term, len(names))
		for i, name := range names {
			terms[i] = ast.StringTerm(name)
		}
		taints = ast.ArrayTerm(terms...)
	}
	return [][2]*ast.Term{
		ast.Item(keyPath, ast.StringTerm(image.Path)),
		ast.Item(keyTaints, taints),
	}
}

// nameInput returns the input of the question whether a name is declared.
func nameInput(name string) ast.Value {
	return ast.NewObject(ast.Item(keyNetwork,
		ast.ObjectTerm(ast.Item(keyHost, ast.StringTerm(name)))))
}

// errAnswer is a result of the Rego module that is not the document it promises.
var errAnswer = errors.New("unexpected answer of the rego module")

// readAnswer reads the document that the module calls decision. The reasons are
// written in Rego as in flow.
func readAnswer(results rego.ResultSet) (*flow.Decision, error) {
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return nil, fmt.Errorf("%d results: %w", len(results), errAnswer)
	}
	answer, ok := results[0].Expressions[0].Value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("no object: %w", errAnswer)
	}
	verdict, okVerdict := answer["verdict"].(string)
	reason, okReason := answer["reason"].(string)
	policy, okPolicy := answer["policy"].(string)
	inspect, okInspect := answer["inspect"].(bool)
	allowed, okAllowed := answer["allowed_ips"].([]any)
	if !okVerdict || !okReason || !okPolicy || !okInspect || !okAllowed {
		return nil, fmt.Errorf("missing field: %w", errAnswer)
	}
	d := &flow.Decision{Policy: policy, Reason: flow.Reason(reason), Inspect: inspect}
	if verdict == flow.Allow.String() {
		d.Verdict = flow.Allow // any other word denies
	}
	for _, item := range allowed {
		text, _ := item.(string)
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("allowed_ips: %w", err)
		}
		d.AllowedIPs = append(d.AllowedIPs, p)
	}
	return d, nil
}
