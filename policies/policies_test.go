package policies_test

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/tester"
)

// TestRego runs the tests that are written in Rego, as "opa test policies" would.
func TestRego(t *testing.T) {
	results, err := tester.Run(t.Context(), "network.rego", "network_test.rego")
	if err != nil {
		t.Fatal(err)
	}
	if len(results) == 0 {
		t.Fatal("found no tests")
	}
	for _, result := range results {
		t.Run(result.Name, func(t *testing.T) {
			if !result.Pass() {
				t.Errorf("%s: %v", result.Location, result.Error)
			}
		})
	}
}
