package policy

import (
	"context"
	"fmt"
	"strconv"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxNames is how many answers about DNS names a generation remembers.
const maxNames = 4096

// generation is one policy, prepared. It never changes; its caches go with it,
// so that no decision outlives its policy.
type generation struct {
	number    uint64
	decision  rego.PreparedEvalQuery
	declared  rego.PreparedEvalQuery
	regexes   cache.InterQueryValueCache // every expression of the policy, compiled at first use
	never     topdown.Cancel             // a cancellation that does not come
	decisions *decisionCache
	names     *lru.Cache[string, bool]

	// The answers that need no evaluation.
	noIdentity, controlPlane *flow.Decision
}

func newGeneration(ctx context.Context, compiler *ast.Compiler, p *Policy, number uint64, config Config) (*generation, error) {
	x := newIndex(p)
	store := inmem.NewFromObjectWithOpts(x.data(), inmem.OptReturnASTValuesOnRead(true))
	prepare := func(query string) (rego.PreparedEvalQuery, error) {
		return rego.New(
			rego.Compiler(compiler),
			rego.Store(store),
			rego.Query(query),
			// An error of a builtin must not pass for "no match".
			rego.StrictBuiltinErrors(true),
		).PrepareForEval(ctx)
	}
	g := &generation{
		number: number,
		never:  topdown.NewCancel(),
		noIdentity: &flow.Decision{
			Engine: flow.EngineIdentity, Reason: flow.ReasonNoIdentity, Generation: number,
			Hint: "the kernel has no exec record of the program; if this lasts, too many programs were started at once",
		},
		controlPlane: &flow.Decision{
			Verdict: flow.Allow, Engine: flow.EngineControlPlane, Reason: flow.ReasonControlPlane, Generation: number,
		},
	}
	var err error
	if g.decision, err = prepare("data.ringfence.network.decision"); err != nil {
		return nil, fmt.Errorf("query decision: %w", err)
	}
	if g.declared, err = prepare("data.ringfence.network.declared"); err != nil {
		return nil, fmt.Errorf("query declared: %w", err)
	}
	if g.decisions, err = newDecisionCache(config.CacheSize); err != nil {
		return nil, err
	}
	if g.names, err = lru.New[string, bool](maxNames); err != nil {
		return nil, fmt.Errorf("make name cache: %w", err)
	}
	room := x.patterns + 1
	g.regexes = cache.NewInterQueryValueCache(ctx, &cache.Config{
		InterQueryBuiltinValueCache: cache.InterQueryBuiltinValueCacheConfig{MaxNumEntries: &room},
	})
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

// evaluate asks OPA. The time is bounded by what goes in: at most
// flow.MaxAncestors paths of 4096 bytes against the endpoints of one host.
func (g *generation) evaluate(id *flow.Identity, target flow.Target) *flow.Decision {
	results, err := g.eval(g.decision, connectionInput(id, target))
	var d *flow.Decision
	if err == nil {
		d, err = readAnswer(results)
	}
	if err != nil {
		d = &flow.Decision{Reason: flow.ReasonPolicyError, Hint: "the policy engine failed: " + strconv.QuoteToASCII(err.Error())}
	}
	d.Engine, d.Generation = flow.EngineOPA, g.number
	if d.Hint == "" {
		d.Hint = hint(d, id, target)
	}
	return d
}

// eval runs a query to its end. A query that could be cancelled would cost a
// goroutine each time, and what it measured of itself would be thrown away.
func (g *generation) eval(query rego.PreparedEvalQuery, input ast.Value) (rego.ResultSet, error) {
	return query.Eval(context.Background(),
		rego.EvalParsedInput(input),
		rego.EvalInterQueryBuiltinValueCache(g.regexes),
		rego.EvalExternalCancel(g.never),
		rego.EvalMetrics(metrics.NoOp()))
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
