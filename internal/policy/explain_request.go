package policy

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// RequestMatch is what one inspected endpoint says of a request.
type RequestMatch struct {
	Policy, Key string
	Place       Place // of the endpoint
	// Outcome is allowed, deny_rule, no_rule, encoded_slash or
	// inspection_unavailable.
	Outcome flow.Reason
	Rule    string // what allows or refuses it: "access", "rules[0]", "deny_rules[1]"
	// Near is a rule that has the path but not the method or query, and why.
	Near  string
	Audit bool // what it refuses is only recorded

	endpoint *Endpoint
}

// requestMatches returns what the endpoints say that judge a request together: of
// those that are granted the equally specific, and of these, by path.
func requestMatches(matches []Match, request flow.Request) []RequestMatch {
	matches = slices.DeleteFunc(slices.Clone(matches), func(m Match) bool { return grade(m.Outcome) != granted })
	if len(matches) == 0 || !matches[0].endpoint.inspect {
		return nil
	}
	first := matches[0].endpoint.Host
	var candidates []RequestMatch
	for _, m := range matches {
		if m.endpoint.inspect && m.endpoint.Host.class() == first.class() && m.endpoint.Host.literals() == first.literals() {
			candidates = append(candidates, RequestMatch{Policy: m.Policy, Key: m.Key, Place: m.Place, endpoint: m.endpoint,
				Audit: m.endpoint.settings().enforcement != enforce})
		}
	}
	judging, forPath := judgesOf(candidates, request.Path)
	for i := range judging {
		judging[i].judge(request, forPath)
	}
	return judging
}

// judgesOf returns the endpoints that are for a path; where there are none, all,
// and false.
func judgesOf(candidates []RequestMatch, path string) (judges []RequestMatch, forPath bool) {
	most := -1
	for _, c := range candidates {
		if c.endpoint.Path != "" && c.endpoint.Path.matches(path) {
			most = max(most, c.endpoint.Path.literals())
		}
	}
	for _, c := range candidates {
		switch {
		case most < 0 && c.endpoint.Path == "",
			most >= 0 && c.endpoint.Path != "" && c.endpoint.Path.matches(path) && c.endpoint.Path.literals() == most:
			judges = append(judges, c)
		}
	}
	if len(judges) == 0 {
		return candidates, false
	}
	return judges, true
}

// judge finds out what one endpoint says.
func (m *RequestMatch) judge(request flow.Request, forPath bool) {
	e := m.endpoint
	m.Outcome = flow.ReasonNoRule
	switch {
	case !forPath:
		m.Near = fmt.Sprintf("it is for the path %s only", e.Path)
		return
	case e.settings().protocol != protocolREST:
		m.Outcome = flow.ReasonInspectionUnavailable
		return
	case strings.Contains(strings.ToLower(request.Path), "%2f") && !e.AllowEncodedSlash:
		m.Outcome = flow.ReasonEncodedSlash
		return
	}
	for i := range e.DenyRules {
		if rule := &e.DenyRules[i]; rule.coversMethod(request) && rule.coversPath(request) && rule.refusesQuery(request) {
			m.Outcome, m.Rule = flow.ReasonDenyRule, fmt.Sprintf("deny_rules[%d]", i)
			return
		}
	}
	m.judgeAllowed(request)
}

func (m *RequestMatch) judgeAllowed(request flow.Request) {
	e := m.endpoint
	if slices.Contains(e.Access.methods(), request.Method) || e.Access == accessFull {
		m.Outcome, m.Rule = flow.ReasonAllowed, "access"
		return
	}
	for i := range e.Rules {
		rule, name := &e.Rules[i].Allow, fmt.Sprintf("rules[%d]", i)
		switch {
		case !rule.coversPath(request):
		case !rule.coversMethod(request):
			m.Near = fmt.Sprintf("%s has the path, for the method %s", name, rule.Method)
		case !rule.allowsQuery(request):
			m.Near = name + " has the method and the path, for another query"
		default:
			m.Outcome, m.Rule, m.Near = flow.ReasonAllowed, name, ""
			return
		}
	}
}

// methods returns the methods of a preset; nil for full, which has no list.
func (a Access) methods() []string {
	switch a {
	case accessReadOnly:
		return []string{"GET", "HEAD", "OPTIONS"}
	case accessReadWrite:
		return []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"}
	}
	return nil
}

func (p PathGlob) matches(path string) bool {
	return regexp.MustCompile(anyOf([]string{pathExpression(string(p))})).MatchString(path)
}

func (rule *Rule) coversPath(request flow.Request) bool {
	return rule.Path == "" || rule.Path.matches(request.Path)
}

func (rule *Rule) coversMethod(request flow.Request) bool {
	return rule.Method == "" || rule.Method == "*" || string(rule.Method) == request.Method ||
		rule.Method == http.MethodGet && request.Method == http.MethodHead
}

func (m Matcher) matches(value string) bool {
	return regexp.MustCompile(m.expression()).MatchString(value)
}

func (rule *Rule) allowsQuery(request flow.Request) bool {
	for key, matcher := range rule.Query {
		values := request.Query[key]
		if len(values) == 0 || slices.ContainsFunc(values, func(v string) bool { return !matcher.matches(v) }) {
			return false
		}
	}
	return true
}

func (rule *Rule) refusesQuery(request flow.Request) bool {
	for key, matcher := range rule.Query {
		if !slices.ContainsFunc(request.Query[key], matcher.matches) {
			return false
		}
	}
	return true
}
