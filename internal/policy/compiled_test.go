package policy

import (
	"testing"

	"github.com/ringfence/ringfence/policies"
)

func TestEnginesShareWhatIsCompiled(t *testing.T) {
	p, _, err := Load(Source{"default.yaml", policies.Default})
	if err != nil {
		t.Fatal(err)
	}
	a, aErr := NewEngine(t.Context(), p, Config{})
	b, bErr := NewEngine(t.Context(), p, Config{})
	if aErr != nil || bErr != nil {
		t.Fatal(aErr, bErr)
	}
	if a.current.Load().compiled != b.current.Load().compiled {
		t.Error("two engines of a policy compiled it twice")
	}
	narrowed, err := p.WithModules([]Source{{"m.rego", []byte("package ringfence.custom\n\ndeny contains \"all\" if true\n")}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewEngine(t.Context(), narrowed, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if a.current.Load().compiled == c.current.Load().compiled {
		t.Error("a narrowed policy is evaluated as the one it was made of")
	}
}
