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
	tellWarnings(warnings, log)
	return p, content, nil
}

// tellWarnings tells warnings, those alike in one line: a policy may have one for
// each endpoint.
func tellWarnings(warnings []policy.Warning, log *slog.Logger) {
	alike := map[string][]policy.Warning{}
	var order []string
	for _, w := range warnings {
		key := w.File + "\x00" + w.Message
		if alike[key] == nil {
			order = append(order, key)
		}
		alike[key] = append(alike[key], w)
	}
	for _, key := range order {
		text := alike[key][0].String()
		if more := len(alike[key]) - 1; more > 0 {
			text += fmt.Sprintf(" (and so for %d more)", more)
		}
		log.Warn(text)
	}
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
