package policies_test

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/tester"
)

// TestRego runs the tests that are written in Rego, as "opa test policies" would.
// They must come by every rule.
func TestRego(t *testing.T) {
	modules, store, err := tester.Load([]string{"network.rego", "request.rego", "network_test.rego", "request_test.rego"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	coverage := cover.New()
	results, err := tester.NewRunner().SetStore(store).SetModules(modules).SetCoverageQueryTracer(coverage).RunTests(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for result := range results {
		ran++
		t.Run(result.Package+"/"+result.Name, func(t *testing.T) {
			if !result.Pass() {
				t.Errorf("%s: %v", result.Location, result.Error)
			}
		})
	}
	if ran == 0 {
		t.Fatal("found no tests")
	}
	for _, name := range []string{"network.rego", "request.rego"} {
		report, ok := coverage.Report(modules).Files[name]
		if !ok {
			t.Fatalf("%s is not in the report", name)
		}
		for _, lines := range report.NotCovered {
			t.Errorf("%s: no test comes by lines %d to %d", name, lines.Start.Row, lines.End.Row)
		}
	}
}
