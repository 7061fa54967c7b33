package cli

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/policies"
)

// defaultPolicy is the shipped policy that applies where none is named.
const defaultPolicy = "default"

// loadPolicies reads the policies that --policy names, as one.
func loadPolicies(specs []string, log *slog.Logger) (*policy.Policy, error) {
	if len(specs) == 0 {
		specs = []string{defaultPolicy}
	}
	var sources []policy.Source
	for _, spec := range specs {
		source, err := readPolicy(spec)
		if err != nil {
			return nil, err
		}
		sources = append(sources, source)
	}
	p, warnings, err := policy.Load(sources...)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		log.Warn(w.String())
	}
	return p, nil
}

// readPolicy takes a plain word for the name of a shipped policy, and what looks
// like a path for a file: a file must not be able to take a shipped one's place.
func readPolicy(spec string) (policy.Source, error) {
	if spec == defaultPolicy {
		return policy.Source{Name: spec, Data: policies.Default}, nil
	}
	if !strings.ContainsAny(spec, "/.") {
		return policy.Source{}, hint(
			fmt.Errorf("--policy %q: no shipped policy has this name", spec),
			fmt.Sprintf("shipped is %q; write ./%s for a file", defaultPolicy, spec))
	}
	data, err := readBounded(spec, policy.MaxFile)
	if err != nil {
		return policy.Source{}, fmt.Errorf("read --policy: %w", err)
	}
	return policy.Source{Name: spec, Data: data}, nil
}

// readBounded reads a whole file of at most limit bytes.
func readBounded(path string, limit int) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, nil
}
