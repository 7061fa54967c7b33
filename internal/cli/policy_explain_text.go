package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// maxMatches is how many endpoints an explanation tells to a person.
const maxMatches = 5

// explanationText tells an explanation to a person.
func explanationText(q *policy.Question, x *policy.Explanation, notes []string) string {
	var b strings.Builder
	d := x.Decision
	asked := fmt.Sprintf("%s to %s", quoteText(q.Identity.Path), q.Target)
	if q.Request != nil {
		asked += fmt.Sprintf(", %s %s", q.Request.Method, quoteText(q.Request.Path))
	}
	fmt.Fprintf(&b, "%s: %s%s\n", verdictWord(x), asked, reasonText(x))
	for _, note := range notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	for i := range x.Matches[:min(len(x.Matches), maxMatches)] {
		writeMatch(&b, q, &x.Matches[i])
	}
	if more := len(x.Matches) - maxMatches; more > 0 {
		fmt.Fprintf(&b, "\nand %s that also name the host, but match less\n", count(more, "endpoint", "endpoints"))
	}
	if len(x.Programs) > 0 && len(x.Matches) == 0 {
		fmt.Fprintf(&b, "\npolicies that name the program, but not this host: %s\n", strings.Join(x.Programs, ", "))
	}
	for i := range x.Requests {
		writeRequestMatch(&b, &x.Requests[i])
	}
	if d.Hint != "" {
		fmt.Fprintf(&b, "\nhint: %s\n", d.Hint)
	}
	if x.Suggestion != "" {
		fmt.Fprintf(&b, "\nto allow it, merge into the policy (a shipped one: into a copy, by ringfence policy show --raw NAME):\n\n%s", indent(x.Suggestion))
	}
	return b.String()
}

func verdictWord(x *policy.Explanation) string {
	word := "denied"
	switch {
	case x.Dial != "":
	case x.Decision.Verdict == flow.Allow:
		word = "allowed"
	case x.Decision.Verdict == flow.Audit:
		word = "audited: not allowed, but let through and recorded"
	}
	if len(x.Requests) > 0 {
		word += " by its rules (but no connection is made: this version inspects no requests)"
	}
	return word
}

func reasonText(x *policy.Explanation) string {
	switch {
	case x.Dial != "":
		return fmt.Sprintf(" (the policy allows it, and the address is refused: %s)", x.Dial)
	case x.Decision.Reason == flow.ReasonAllowed:
		return ""
	}
	return fmt.Sprintf(" (%s)", x.Decision.Reason)
}

func writeMatch(b *strings.Builder, q *policy.Question, m *policy.Match) {
	fmt.Fprintf(b, "\npolicy %s: %s\n  endpoint  %s\n", m.Policy, m.Outcome, m.Place)
	host := m.Host
	if host == "" {
		host = "none; allowed_ips"
	}
	fmt.Fprintf(b, "  host      %s matches\n", host)
	ports := make([]string, len(m.Ports))
	for i, port := range m.Ports {
		ports[i] = strconv.Itoa(int(port))
	}
	fmt.Fprintf(b, "  port      %s %s\n", strings.Join(ports, ", "), matches(m.PortMatches, fmt.Sprintf("is not %d", q.Target.Port)))
	fmt.Fprintf(b, "  program   %s\n", programText(m))
}

// programText says which binary names the program, or which there are.
func programText(m *policy.Match) string {
	const shown = 4
	bin := m.Binary
	if bin == nil {
		var paths []string
		for i, b := range m.Binaries {
			if i == shown {
				paths = append(paths, fmt.Sprintf("and %d more", len(m.Binaries)-shown))
				break
			}
			paths = append(paths, quoteText(string(b.Path)))
		}
		return "is none of " + strings.Join(paths, ", ")
	}
	text := quoteText(string(bin.Written))
	if bin.Resolved != "" {
		text += ", a link to " + quoteText(bin.Resolved) + ","
	}
	if bin.Ancestor > 0 {
		text += " names the ancestor " + quoteText(bin.Image)
	} else {
		text += " matches"
	}
	if bin.Taints != 0 {
		text += ", but for the taint " + strings.Join(bin.Taints.Names(), ", ")
	} else if bin.Outcome != flow.ReasonAllowed {
		text += ", but " + string(bin.Outcome)
	}
	return text
}

func writeRequestMatch(b *strings.Builder, m *policy.RequestMatch) {
	fmt.Fprintf(b, "\nrequest, by policy %s: %s\n  endpoint  %s\n", m.Policy, m.Outcome, m.Place)
	switch {
	case m.Rule != "":
		fmt.Fprintf(b, "  rule      %s\n", m.Rule)
	case m.Near != "":
		fmt.Fprintf(b, "  nearest   %s\n", m.Near)
	}
}

func matches(yes bool, otherwise string) string {
	if yes {
		return "matches"
	}
	return otherwise
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ") + "\n"
}

// quoteText quotes a text that a terminal could obey, or that is hard to read.
func quoteText(text string) string {
	quoted := strconv.QuoteToASCII(text)
	if quoted[1:len(quoted)-1] == text && !strings.Contains(text, " ") {
		return text
	}
	return quoted
}
