package flow

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// What an operator may meet stands in the documents: every reason of a record, and
// every variable and taint.
func TestDocuments(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "decision.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Reason") && len(spec.Values) == 1 {
			reasons = append(reasons, strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
		}
		return true
	})
	if len(reasons) < 30 {
		t.Fatalf("only %d reasons: %q", len(reasons), reasons)
	}
	for name, words := range map[string][]string{
		"operations.md": reasons,
		"policy.md":     append(TaintNames(), PreloadVariables()...),
	} {
		text, err := os.ReadFile("../../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range words {
			if !strings.Contains(string(text), "`"+word+"`") {
				t.Errorf("docs/%s does not name %s", name, word)
			}
		}
	}
}
