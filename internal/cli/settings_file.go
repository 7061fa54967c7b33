package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/policy"
)

// setting is one key of a configuration file with what is written for it.
type setting struct {
	key    string
	values []string
	place  string // file:line
}

// readFile sets what the configuration file has, and no flag has set.
func (o *serveOptions) readFile(flags *pflag.FlagSet) error {
	path := o.config
	if path == "" {
		path = defaultConfigFile
	}
	text, err := readBounded(path, maxConfigFile)
	if errors.Is(err, fs.ErrNotExist) && o.config == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	settings, err := parseSettings(path, text)
	if err != nil {
		return err
	}
	for _, s := range settings {
		if flags.Changed(s.key) {
			continue
		}
		for _, value := range s.values {
			if err := set(flags, s, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// known returns an error where there is no such setting.
func known(s setting) error {
	names := settingNames()
	if slices.Contains(names, s.key) {
		return nil
	}
	next := "ringfence agent --help lists them"
	if near := policy.Nearest(s.key, names); near != "" {
		next = "did you mean " + near + "? " + next
	}
	return hint(fmt.Errorf("%s: there is no setting %q", s.place, s.key), next)
}

// set gives a flag one value of the file's, without marking it as the person's.
func set(flags *pflag.FlagSet, s setting, value string) error {
	flag := flags.Lookup(s.key)
	if len(s.values) != 1 && flag.Value.Type() != "stringArray" {
		return hint(fmt.Errorf("%s: %s takes one value", s.place, s.key), "write "+s.key+": VALUE")
	}
	if err := flag.Value.Set(value); err != nil {
		return hint(fmt.Errorf("%s: %s: %w", s.place, s.key, err), "ringfence agent --help says what it takes")
	}
	return nil
}

// settingNames are the keys that a file may have: the flags but those that say what to
// do with a file.
func settingNames() (names []string) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(serveOptions).addSettings(flags)
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// parseSettings reads a mapping of the names of settings to values or lists of values.
// Each name stands once.
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
		if err := known(s); err != nil {
			return nil, err
		}
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
