package cli

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
)

// loadPolicies reads and loads the policies that --policy and --rego name, as one,
// and tells their warnings.
func loadPolicies(set source.Set, log *slog.Logger) (*policy.Policy, source.Content, error) {
	content, err := set.Read()
	if err != nil {
		return nil, content, err
	}
	p, warnings, err := content.Load()
	if err != nil {
		return nil, content, err
	}
	policy.TellWarnings(warnings, func(text string) { log.Warn(text) })
	return p, content, nil
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
