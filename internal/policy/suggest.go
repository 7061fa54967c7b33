package policy

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/flow"
)

// suggest returns the YAML that would allow what was denied, to be merged into the
// policy; "" where there is nothing to add.
//
// What it names are the sandbox's own bytes, and a person may take it over as it
// is: so a path that would be read as a pattern is not suggested.
func suggest(p *Policy, q Question, x *Explanation) string {
	if BinaryPath(q.Identity.Path).IsGlob() {
		return ""
	}
	switch x.Decision.Reason {
	case flow.ReasonNoEndpoint:
		return suggestPolicy(p, q)
	case flow.ReasonWrongPort, flow.ReasonPortRefused:
		if x.Matches[0].Binary == nil || x.Matches[0].Outcome == flow.ReasonPortRefused {
			return suggestPolicy(p, q)
		}
		return suggestPort(q, &x.Matches[0])
	case flow.ReasonWrongBinary:
		return snippet(x.Matches[0].Key, "", "binaries:", "  - path: "+yamlText(q.Identity.Path))
	case flow.ReasonTaintedBinary:
		return suggestTaints(&x.Matches[0])
	case flow.ReasonNoRule:
		return suggestRule(q.Request, x.Requests)
	}
	return ""
}

// suggestPolicy makes a policy for this program and target alone. One that is
// there may be for others too, who have no need of it.
func suggestPolicy(p *Policy, q Question) string {
	endpoint := fmt.Sprintf("  - { host: %s, port: %d }", yamlText(q.Target.Host), q.Target.Port)
	if q.Target.Addr.IsValid() {
		switch flow.ClassOf(q.Target.Addr) {
		case flow.ClassRefused:
			return "" // never dialled
		case flow.ClassSpecial:
			endpoint = fmt.Sprintf("  - { host: %[1]s, port: %[2]d, allowed_ips: [%[1]s] }", yamlText(q.Target.Host), q.Target.Port)
		}
	}
	return snippet(newKey(p, q.Identity.Path), "a new policy", "endpoints:", endpoint, "binaries:", "  - path: "+yamlText(q.Identity.Path))
}

// newKey returns a key for a program's policy that no other has.
func newKey(p *Policy, program string) string {
	base := regexp.MustCompile(`[^A-Za-z0-9_]+`).ReplaceAllString(path.Base(program), "_")
	base = cmp.Or(base[:min(len(base), maxName-4)], "new")
	key := base
	for n := 2; slices.ContainsFunc(p.networks, func(n Network) bool { return n.key == key || n.Name == key }) && n < 1000; n++ {
		key = fmt.Sprintf("%s_%d", base, n)
	}
	return key
}

// suggestPort writes the endpoint out with one port more: what else it says must
// not be lost.
func suggestPort(q Question, m *Match) string {
	wider := *m.endpoint
	wider.Ports = append(slices.Clone(wider.Ports), Port(q.Target.Port))
	text, err := yaml.Marshal([]*Endpoint{&wider})
	if err != nil {
		return ""
	}
	lines := []string{"endpoints:"}
	for line := range strings.Lines(string(text)) {
		lines = append(lines, "  "+strings.TrimSuffix(line, "\n"))
	}
	return snippet(m.Key, "in place of "+m.Place.Field, lines...)
}

func suggestTaints(m *Match) string {
	if m.Binary == nil || !m.Binary.Taints.Liftable() {
		return ""
	}
	path := m.Binary.Written
	if path.IsGlob() {
		path = BinaryPath(m.Binary.Image) // this program's taints, not those of all
	}
	if path.IsGlob() {
		return ""
	}
	return snippet(m.Key, "if these taints are acceptable there", "binaries:",
		fmt.Sprintf("  - { path: %s, allow_taints: [%s] }", yamlText(string(path)), strings.Join(m.Binary.Taints.Names(), ", ")))
}

func suggestRule(request *flow.Request, judges []RequestMatch) string {
	if request == nil || len(judges) == 0 || judges[0].endpoint.Path != "" && !judges[0].endpoint.Path.matches(request.Path) {
		return ""
	}
	m := judges[0]
	where := "in " + m.Place.Field
	if m.endpoint.Access != "" {
		access := accessFull
		if slices.Contains(accessReadWrite.methods(), request.Method) {
			access = accessReadWrite
		}
		return snippet(m.Key, where+", for every path", "endpoints:", "  - access: "+string(access))
	}
	return snippet(m.Key, where, "endpoints:", "  - rules:",
		fmt.Sprintf("      - allow: { method: %s, path: %s }", yamlText(request.Method), yamlText(request.Path)))
}

// snippet returns a piece of a policy with a comment on its first line.
func snippet(key, comment string, lines ...string) string {
	var b strings.Builder
	b.WriteString("network_policies:\n  " + key + ":")
	if comment != "" {
		b.WriteString("  # " + comment)
	}
	for _, line := range lines {
		b.WriteString("\n    " + line)
	}
	return b.String() + "\n"
}

// yamlText writes a text in YAML: as it is where that has one reading.
func yamlText(text string) string {
	if regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9/._-]*$`).MatchString(text) && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off"}, strings.ToLower(text)) {
		return text
	}
	return strconv.QuoteToASCII(text)
}
