package policy

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxNames is how many answers about DNS names a generation remembers.
const maxNames = 4096

// generation is one policy, and where its links lead in one sandbox, under a
// number. It never changes; its caches go with it, so that no decision outlives
// its policy.
type generation struct {
	*compiled
	number    uint64
	written   []Link // what links was made of
	links     linkTable
	decisions *decisionCache
	names     *lru.Cache[string, bool]

	// The answers that need no evaluation.
	noIdentity, controlPlane *flow.Decision
}

func newGeneration(c *compiled, links []Link, number uint64, config Config) (*generation, error) {
	g := &generation{
		compiled: c,
		number:   number,
		written:  links,
		links:    newLinkTable(links),
		noIdentity: &flow.Decision{
			Engine: flow.EngineIdentity, Reason: flow.ReasonNoIdentity, Generation: number,
			Hint: "the kernel has no exec record of the program; if this lasts, too many programs were started at once",
		},
		controlPlane: &flow.Decision{
			Verdict: flow.Allow, Engine: flow.EngineControlPlane, Reason: flow.ReasonControlPlane, Generation: number,
		},
	}
	var err error
	if g.decisions, err = newDecisionCache(config.CacheSize); err != nil {
		return nil, err
	}
	if g.names, err = lru.New[string, bool](maxNames); err != nil {
		return nil, fmt.Errorf("make name cache: %w", err)
	}
	return g, nil
}

// decide answers from the cache, or evaluates.
func (g *generation) decide(id *flow.Identity, target flow.Target) *flow.Decision {
	if id.Key == (flow.IdentityKey{}) {
		return g.evaluate(id, target) // made by hand: nothing tells it from another
	}
	key := decisionKey{id.Key, target}
	shard := g.decisions.shard(key)
	if d, ok := shard.get(key); ok {
		return d
	}
	return shard.fill(key, func() *flow.Decision { return g.evaluate(id, target) })
}

// evaluate asks OPA.
func (g *generation) evaluate(id *flow.Identity, target flow.Target) *flow.Decision {
	d := g.ask(g.decision, connectionInput(id, target, g.links))
	if d.Hint == "" {
		d.Hint = hint(d, id, target)
	}
	return d
}

// evaluateRequest asks OPA about one request on a connection.
func (g *generation) evaluateRequest(id *flow.Identity, target flow.Target, request flow.Request) *flow.Decision {
	d := g.ask(g.request, requestInput(id, target, g.links, request))
	if d.Hint == "" {
		d.Hint = requestHint(d, id, target, request)
	}
	return d
}

// ask returns the answer to a query; a failure is a denial.
func (g *generation) ask(query rego.PreparedEvalQuery, input ast.Value) *flow.Decision {
	results, err := g.eval(query, input)
	var d *flow.Decision
	if err == nil {
		d, err = readAnswer(results)
	}
	if err != nil {
		d = &flow.Decision{Reason: flow.ReasonPolicyError, Hint: "the policy engine failed: " + quotePath(err.Error())}
	}
	d.Engine, d.Generation = flow.EngineOPA, g.number
	return d
}

func (g *generation) declares(name string) bool {
	if declared, ok := g.names.Get(name); ok {
		return declared
	}
	results, err := g.eval(g.declared, nameInput(name))
	if err != nil {
		return false
	}
	declared := results.Allowed()
	g.names.Add(name, declared)
	return declared
}
