package cli

import (
	"fmt"
	"slices"
	"strings"
)

// pairs reads values of a flag that are KEY=VALUE. The last of a key counts.
func pairs(flag string, texts []string) (map[string]string, error) {
	read := make(map[string]string, len(texts))
	for _, text := range texts {
		key, value, found := strings.Cut(text, "=")
		if !found || key == "" {
			return nil, unread(hint(fmt.Errorf("%s %q is not KEY=VALUE", flag, text), fmt.Sprintf("write %s KEY=VALUE", flag)))
		}
		read[key] = value
	}
	return read, nil
}

// variables reads --env: NAME=VALUE, and NAME alone, whose value is that of our own
// environment.
func variables(texts []string, env Env) (map[string]string, error) {
	return pairs("--env", inherit(texts, env))
}

// inherit gives names without a value the one that our environment has. Where it has
// none, the name is left out, as docker does.
func inherit(texts []string, env Env) (whole []string) {
	for _, text := range texts {
		if strings.Contains(text, "=") || text == "" {
			whole = append(whole, text)
			continue
		}
		if slices.ContainsFunc(env.Environ, func(kv string) bool { return strings.HasPrefix(kv, text+"=") }) {
			whole = append(whole, text+"="+env.variable(text))
		}
	}
	return whole
}

// merge applies changes to a map: KEY=VALUE sets, KEY- removes.
func merge(flag string, present map[string]string, changes []string) (map[string]string, error) {
	merged := make(map[string]string, len(present)+len(changes))
	for key, value := range present {
		merged[key] = value
	}
	for _, change := range changes {
		key, value, found := strings.Cut(change, "=")
		gone, removes := strings.CutSuffix(change, "-")
		switch {
		case found && key != "":
			merged[key] = value
		case !found && removes && gone != "":
			delete(merged, gone)
		default:
			return nil, unread(hint(fmt.Errorf("%s %q says neither what to set nor what to remove", flag, change),
				fmt.Sprintf("write %s KEY=VALUE, or %s KEY- to remove KEY", flag, flag)))
		}
	}
	return merged, nil
}

// mergeNames applies changes to a list: NAME adds, NAME- removes.
func mergeNames(present, changes []string) []string {
	merged := slices.Clone(present)
	for _, change := range changes {
		if gone, removes := strings.CutSuffix(change, "-"); removes {
			merged = slices.DeleteFunc(merged, func(name string) bool { return name == gone })
		} else if !slices.Contains(merged, change) {
			merged = append(merged, change)
		}
	}
	return merged
}
