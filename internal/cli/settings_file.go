package cli

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// setting is one key of a configuration file with what is written for it.
type setting struct {
	key    string
	values []string
	place  string // file:line
}

// parseSettings reads a mapping of names to values or lists of values. Each name
// stands once.
func parseSettings(path string, text []byte) ([]setting, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, hint(fmt.Errorf("%s: is no mapping of settings", path), "write NAME: VALUE lines; ringfence agent --help lists the names")
	}
	var settings []setting
	seen := map[string]bool{}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		s := setting{key: key.Value, place: fmt.Sprintf("%s:%d", path, key.Line)}
		if seen[s.key] {
			return nil, fmt.Errorf("%s: %s stands there twice", s.place, s.key)
		}
		seen[s.key] = true
		var err error
		if s.values, err = scalars(value); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", s.place, s.key, err)
		}
		settings = append(settings, s)
	}
	return settings, nil
}

var errNotScalar = errors.New("a value, or a list of values, was expected")

func scalars(value *yaml.Node) ([]string, error) {
	switch value.Kind {
	case yaml.ScalarNode:
		return []string{value.Value}, nil
	case yaml.SequenceNode:
		values := make([]string, len(value.Content))
		for i, item := range value.Content {
			if item.Kind != yaml.ScalarNode {
				return nil, errNotScalar
			}
			values[i] = item.Value
		}
		return values, nil
	}
	return nil, errNotScalar
}
