# Layer 7 of a policy: may this request be made on a connection that
# network.rego grants?
#
# To the input of network.rego comes
#
#   request  method, path (canonical, without the query), query {key: [value, ...]}
#
# and of an inspected endpoint the index says
#
#   protocol, enforcement, encoded_slash
#   path    {match: anchored expression, literals: bytes written out}, where it is for some paths only
#   access  the preset, where it has one
#   rules, deny_rules  lists of {method, path: expression, query: {key: expression}}; path only where there is one
package ringfence.request

import data.ringfence.index
import data.ringfence.network

# decision is what the agent asks for, in one evaluation for each request.
decision := object.union(ruling, network.objection) if {
	ruling.verdict != "deny"
	network.objection
} else := ruling

# What is not inspected was decided with the connection.
ruling := network.ruling if {
	not inspected
} else := answer("deny", "inspection_unavailable", unread, "") if {
	unread
} else := answer("deny", "encoded_slash", number, "") if {
	contains(lower(input.request.path), "%2f")
	number := min(strict)
} else := answer(refusal, "deny_rule", first[0], sprintf("deny_rules[%d]", [first[1]])) if {
	first := min(denying)
} else := answer("allow", "allowed", first[0], rule_name(first[1])) if {
	first := min(allowing)
} else := answer(refusal, "no_rule", number, "") if {
	number := min(concerned)
}

answer(verdict, reason, number, rule) := object.union(network.answer(verdict, reason, number), {"rule": rule})

rule_name(i) := "access" if {
	i < 0
} else := sprintf("rules[%d]", [i])

inspected if index.endpoints[network.granted].inspect

# Endpoints: of those that are granted, the equally specific ones judge together.

candidates contains number if {
	some number in network.granting
	index.endpoints[number].tier == index.endpoints[network.granted].tier
	index.endpoints[number].inspect
}

# Those for some paths judge these, the one that says most about the path before
# the others; the rest is for those without a path.
judging := {number |
	some number in scoped
	index.endpoints[number].path.literals == max({index.endpoints[other].path.literals | some other in scoped})
} if {
	count(scoped) > 0
} else := {number |
	some number in candidates
	not index.endpoints[number].path
}

# Who must say something, also where none is for the path.
concerned := judging if {
	count(judging) > 0
} else := candidates

scoped contains number if {
	some number in candidates
	regex.match(index.endpoints[number].path.match, input.request.path)
}

# Only what is plain HTTP can be judged by its requests.
unread := min({number |
	some number in judging
	index.endpoints[number].protocol != "rest"
})

strict contains number if {
	some number in judging
	not index.endpoints[number].encoded_slash
}

# Only where all of them merely record is a request that they refuse let through.
default refusal := "audit"

refusal := "deny" if {
	some number in concerned
	index.endpoints[number].enforcement != "audit"
}

# Rules: one that denies beats all that allow. The first is named; a preset stands
# before the first.

denying contains [number, i] if {
	some number in judging
	some i, rule in index.endpoints[number].deny_rules
	covers(rule)
	every key, pattern in rule.query {
		some value in input.request.query[key]
		regex.match(pattern, value)
	}
}

allowing contains [number, i] if {
	some number in judging
	some i, rule in index.endpoints[number].rules
	covers(rule)
	every key, pattern in rule.query {
		count(input.request.query[key]) > 0
		every value in input.request.query[key] { regex.match(pattern, value) }
	}
}

allowing contains [number, -1] if {
	some number in judging
	some method in presets[index.endpoints[number].access]
	method in {"*", input.request.method}
}

presets := {
	"read-only": {"GET", "HEAD", "OPTIONS"},
	"read-write": {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"},
	"full": {"*"},
}

covers(rule) if {
	is_of(rule.method)
	reaches(rule)
}

is_of("*")

is_of(method) if method == input.request.method

# Whoever may see what a GET returns may see its head, and whoever may not, may not.
is_of("GET") if input.request.method == "HEAD"

reaches(rule) if not rule.path

reaches(rule) if regex.match(rule.path, input.request.path)
