package lint

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// registries are the hosts of package registries. What the tree builds with is
// its user's choice, so no file says where to fetch from.
var registries = regexp.MustCompile(`(npmjs\.org|pypi\.org|pythonhosted\.org|proxy\.golang\.org|sum\.golang\.org|deb\.debian\.org)\b`)

// checkHosts reports files that name a registry's host. Policies may: there such
// a host is what a sandbox is allowed to reach.
func checkHosts(root string, paths []string) ([]string, error) {
	var findings []string
	for _, path := range paths {
		if strings.HasPrefix(path, "policies/") || strings.HasPrefix(path, "internal/policy/") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, path))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			return nil, fmt.Errorf("read tracked file: %w", err)
		}
		number := 0
		for line := range strings.Lines(string(content)) {
			number++
			if host := registries.FindString(line); host != "" {
				findings = append(findings, fmt.Sprintf("%s:%d: names %s, the host of a package registry", path, number, host))
			}
		}
	}
	return findings, nil
}
