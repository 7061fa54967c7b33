package policy

import (
	"context"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// customTimeout bounds one decision that asks the operator's modules. Ours needs
// no bound: what goes in has one.
const customTimeout = time.Second

// compiled is a policy as OPA evaluates it. It never changes, and any number of
// generations and engines may share it.
type compiled struct {
	policy   *Policy
	decision rego.PreparedEvalQuery // of connections
	request  rego.PreparedEvalQuery
	declared rego.PreparedEvalQuery
	regexes  cache.InterQueryValueCache // every expression of the policy, compiled at first use
	never    topdown.Cancel             // a cancellation that does not come
	timed    bool                       // evaluates modules that are not ours
}

func newCompiled(ctx context.Context, p *Policy) (*compiled, error) {
	compiler, problems := compile(p.modules)
	if problems != nil {
		return nil, fmt.Errorf("compile rego: %w", problems)
	}
	x := newIndex(p)
	store := inmem.NewFromObjectWithOpts(x.data(), inmem.OptReturnASTValuesOnRead(true))
	c := &compiled{policy: p, never: topdown.NewCancel(), timed: len(p.modules) > 0}
	for query, prepared := range map[string]*rego.PreparedEvalQuery{
		"data.ringfence.network.decision": &c.decision,
		"data.ringfence.request.decision": &c.request,
		"data.ringfence.network.declared": &c.declared,
	} {
		var err error
		*prepared, err = rego.New(
			rego.Compiler(compiler),
			rego.Store(store),
			rego.Query(query),
			// An error of a builtin must not pass for "no match".
			rego.StrictBuiltinErrors(true),
		).PrepareForEval(ctx)
		if err != nil {
			return nil, fmt.Errorf("query %s: %w", query, err)
		}
	}
	room := x.patterns + 1
	c.regexes = cache.NewInterQueryValueCache(ctx, &cache.Config{
		InterQueryBuiltinValueCache: cache.InterQueryBuiltinValueCacheConfig{MaxNumEntries: &room},
	})
	return c, nil
}

// eval runs a query to its end. A context that could be cancelled would cost a
// goroutine each time, and what the query measured of itself would be thrown away.
func (c *compiled) eval(query rego.PreparedEvalQuery, input ast.Value) (rego.ResultSet, error) {
	cancel := c.never
	if c.timed {
		cancel = topdown.NewCancel()
		defer time.AfterFunc(customTimeout, cancel.Cancel).Stop()
	}
	return query.Eval(context.Background(),
		rego.EvalParsedInput(input),
		rego.EvalInterQueryBuiltinValueCache(c.regexes),
		rego.EvalExternalCancel(cancel),
		rego.EvalMetrics(metrics.NoOp()))
}
