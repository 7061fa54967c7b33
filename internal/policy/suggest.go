package policy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// suggest returns the YAML that would allow what was denied, to be merged into the
// policy; "" where there is nothing to add.
func suggest(q Question, x *Explanation) string {
	switch x.Decision.Reason {
	case flow.ReasonNoEndpoint:
		return suggestEndpoint(q)
	case flow.ReasonWrongPort, flow.ReasonPortRefused:
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

// suggestEndpoint makes a policy for this program alone. One that is there for it
// may be for others too, who have no need of the target.
func suggestEndpoint(q Question) string {
	if q.Target.Addr.IsValid() && flow.ClassOf(q.Target.Addr) == flow.ClassRefused {
		return "" // never dialled
	}
	endpoint := fmt.Sprintf("  - { host: %s, port: %d }", yamlText(q.Target.Host), q.Target.Port)
	key := regexp.MustCompile(`[^A-Za-z0-9_]+`).ReplaceAllString(path.Base(q.Identity.Path), "_")
	key = key[:min(len(key), maxName)]
	return snippet(or(key, "new"), "a new policy", "endpoints:", endpoint, "binaries:", "  - path: "+yamlText(q.Identity.Path))
}

func suggestPort(q Question, m *Match) string {
	if m.Outcome == flow.ReasonPortRefused {
		return snippet(m.Key, "", "endpoints:", fmt.Sprintf("  - { host: %s, port: %d }", yamlText(q.Target.Host), q.Target.Port))
	}
	var ports []string
	for _, port := range append(slices.Clone(m.Ports), Port(q.Target.Port)) {
		ports = append(ports, strconv.Itoa(int(port)))
	}
	where := "host: " + yamlText(m.Host)
	if m.Host == "" {
		where = "allowed_ips: [" + strings.ReplaceAll(joinPrefixes(m.endpoint.AllowedIPs), " ", ", ") + "]"
	}
	return snippet(m.Key, "in place of "+m.Place.Field, "endpoints:",
		fmt.Sprintf("  - { %s, ports: [%s] }", where, strings.Join(ports, ", ")))
}

func suggestTaints(m *Match) string {
	if m.Binary == nil || !m.Binary.Taints.Liftable() {
		return ""
	}
	return snippet(m.Key, "if these taints are acceptable there", "binaries:",
		fmt.Sprintf("  - { path: %s, allow_taints: [%s] }", yamlText(string(m.Binary.Written)), strings.Join(m.Binary.Taints.Names(), ", ")))
}

func suggestRule(request *flow.Request, judges []RequestMatch) string {
	if request == nil || len(judges) == 0 || judges[0].endpoint.Path != "" && !judges[0].endpoint.Path.matches(request.Path) {
		return ""
	}
	m := judges[0]
	where := "in " + m.Place.Field
	if m.endpoint.Access != "" {
		access := "full"
		if slices.Contains(Access("read-write").methods(), request.Method) {
			access = "read-write"
		}
		return snippet(m.Key, where, "endpoints:", "  - access: "+access)
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
