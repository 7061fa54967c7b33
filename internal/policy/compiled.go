package policy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// evalTimeout bounds one evaluation. Ours takes a fraction of a millisecond, unless
// a policy has patterns that are made to be slow; the operator's modules may take
// any time.
const evalTimeout = time.Second

// compiled is a policy as OPA evaluates it. It never changes, and any number of
// generations and engines may share it.
type compiled struct {
	policy   *Policy
	decision rego.PreparedEvalQuery // of connections
	request  rego.PreparedEvalQuery
	declared rego.PreparedEvalQuery
	named    namedPrograms
	regexes  cache.InterQueryValueCache // every expression of the policy, compiled at first use
	// patience returns the end of an evaluation's time, and what lets go of it.
	patience func() (topdown.Cancel, func() bool)
}

// form is a policy's compiled form, made for the first engine that asks.
type form struct {
	mu       sync.Mutex
	compiled *compiled
}

// compile returns the form of the policy. What fails, such as for a context that
// ended, is tried again by the next engine.
func (p *Policy) compile(ctx context.Context) (*compiled, error) {
	p.form.mu.Lock()
	defer p.form.mu.Unlock()
	if p.form.compiled == nil {
		c, err := newCompiled(ctx, p)
		if err != nil {
			return nil, err
		}
		p.form.compiled = c
	}
	return p.form.compiled, nil
}

func untilTimeout() (topdown.Cancel, func() bool) {
	cancel := topdown.NewCancel()
	return cancel, time.AfterFunc(evalTimeout, cancel.Cancel).Stop
}

func newCompiled(ctx context.Context, p *Policy) (*compiled, error) {
	compiler, problems := compile(p.modules)
	if problems != nil {
		return nil, fmt.Errorf("compile rego: %w", problems)
	}
	x := newIndex(p)
	store := inmem.NewFromObjectWithOpts(x.data(), inmem.OptReturnASTValuesOnRead(true))
	named, err := newNamedPrograms(p)
	if err != nil {
		return nil, fmt.Errorf("compile paths of programs: %w", err)
	}
	c := &compiled{policy: p, patience: untilTimeout, named: named}
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
	cancel, letGo := c.patience()
	defer letGo()
	return query.Eval(context.Background(),
		rego.EvalParsedInput(input),
		rego.EvalInterQueryBuiltinValueCache(c.regexes),
		rego.EvalExternalCancel(cancel),
		rego.EvalMetrics(metrics.NoOp()))
}
