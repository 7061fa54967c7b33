package cli

import (
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// The explanation as JSON. Paths are quoted where they are no UTF-8.
type (
	answerJSON struct {
		Verdict    flow.Verdict       `json:"verdict"`
		Reason     flow.Reason        `json:"reason"`
		Policy     string             `json:"policy"`
		Endpoint   string             `json:"endpoint"`
		Rule       string             `json:"rule,omitempty"`
		Hint       string             `json:"hint,omitempty"`
		Dial       flow.Reason        `json:"address_refused,omitempty"` // though the policy allows it
		Binary     string             `json:"binary"`
		Host       string             `json:"host"`
		Port       uint16             `json:"port"`
		Notes      []string           `json:"notes"`
		Matches    []matchJSON        `json:"matches"`
		Requests   []requestMatchJSON `json:"requests,omitempty"`
		Suggestion string             `json:"suggestion,omitempty"`
	}
	matchJSON struct {
		Policy      string      `json:"policy"`
		Key         string      `json:"key"`
		Endpoint    finding     `json:"endpoint"`
		Host        string      `json:"host"`
		Ports       []uint16    `json:"ports"`
		PortMatches bool        `json:"port_matches"`
		Binary      *binaryJSON `json:"binary"`
		Outcome     flow.Reason `json:"outcome"`
	}
	binaryJSON struct {
		Written  string      `json:"written"`
		Resolved string      `json:"resolved,omitempty"`
		Image    string      `json:"image"`
		Ancestor int         `json:"ancestor"`
		Taints   []string    `json:"taints"`
		Outcome  flow.Reason `json:"outcome"`
	}
	requestMatchJSON struct {
		Policy   string      `json:"policy"`
		Endpoint finding     `json:"endpoint"`
		Outcome  flow.Reason `json:"outcome"`
		Rule     string      `json:"rule,omitempty"`
		Near     string      `json:"near,omitempty"`
		Audit    bool        `json:"audit"`
	}
)

func explanationJSON(q *policy.Question, x *policy.Explanation, notes []string) answerJSON {
	d := x.Decision
	a := answerJSON{
		Verdict: d.Verdict, Reason: d.Reason, Policy: d.Policy, Endpoint: d.Endpoint, Rule: d.Rule, Hint: d.Hint, Dial: x.Dial,
		Binary: quoteText(q.Identity.Path), Host: q.Target.Host, Port: q.Target.Port,
		Notes: append([]string{}, notes...), Matches: []matchJSON{}, Suggestion: x.Suggestion,
	}
	for _, m := range x.Matches {
		one := matchJSON{
			Policy: m.Policy, Key: m.Key, Endpoint: findingOf(m.Place, ""), Host: m.Host,
			PortMatches: m.PortMatches, Outcome: m.Outcome,
		}
		for _, port := range m.Ports {
			one.Ports = append(one.Ports, uint16(port))
		}
		if b := m.Binary; b != nil {
			one.Binary = &binaryJSON{
				Written: string(b.Written), Resolved: b.Resolved, Image: quoteText(b.Image),
				Ancestor: b.Ancestor, Taints: b.Taints.Names(), Outcome: b.Outcome,
			}
		}
		a.Matches = append(a.Matches, one)
	}
	for _, m := range x.Requests {
		a.Requests = append(a.Requests, requestMatchJSON{
			Policy: m.Policy, Endpoint: findingOf(m.Place, ""), Outcome: m.Outcome, Rule: m.Rule, Near: m.Near, Audit: m.Audit,
		})
	}
	return a
}
