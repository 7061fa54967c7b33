package ringfence.request_test

import data.ringfence.request

# What internal/policy makes of a few inspected endpoints of two policies for one
# program: api (by rules), docs (by access, for some paths), and others.
index := {
	"endpoints": [
		{
			"policy": "api", "key": "api", "field": "api[0]", "tier": 0, "inspect": true, "allowed_ips": [],
			"protocol": "rest", "enforcement": "enforce", "encoded_slash": false,
			"rules": [
				{"method": "GET", "path": `(?s)^(?:/repos/.*)$`, "query": {}},
				{"method": "POST", "path": `(?s)^(?:/search)$`, "query": {"q": `(?s)^(?:a.*)$`}},
				{"method": "*", "path": `(?s)^(?:/any)$`, "query": {}},
				{"method": "PATCH", "query": {}},
			],
			"deny_rules": [
				{"method": "GET", "path": `(?s)^(?:/repos/secret/.*)$`, "query": {}},
				{"method": "*", "query": {"force": `(?s)^(?:.*)$`}},
			],
		},
		{
			"policy": "docs", "key": "docs", "field": "docs[0]", "tier": 0, "inspect": true, "allowed_ips": [],
			"protocol": "rest", "enforcement": "audit", "encoded_slash": true, "access": "read-only",
			"path": {"match": `(?s)^(?:/docs/.*)$`, "literals": 6}, "rules": [], "deny_rules": [],
		},
		{
			"policy": "docs", "key": "docs", "field": "docs[1]", "tier": 0, "inspect": true, "allowed_ips": [],
			"protocol": "rest", "enforcement": "enforce", "encoded_slash": true, "access": "full",
			"path": {"match": `(?s)^(?:/docs/drafts/.*)$`, "literals": 13}, "rules": [], "deny_rules": [],
		},
		{
			"policy": "chat", "key": "docs", "field": "chat[0]", "tier": 1, "inspect": true, "allowed_ips": [],
			"protocol": "websocket", "enforcement": "enforce", "encoded_slash": false, "access": "read-write",
			"rules": [], "deny_rules": [],
		},
		{"policy": "plain", "key": "docs", "field": "plain[0]", "tier": 2, "inspect": false, "allowed_ips": []},
		{
			"policy": "write", "key": "docs", "field": "write[0]", "tier": 3, "inspect": true, "allowed_ips": [],
			"protocol": "rest", "enforcement": "audit", "encoded_slash": false, "access": "read-write",
			"rules": [], "deny_rules": [],
		},
		{
			"policy": "scoped", "key": "docs", "field": "scoped[0]", "tier": 4, "inspect": true, "allowed_ips": [],
			"protocol": "rest", "enforcement": "enforce", "encoded_slash": false, "access": "full",
			"path": {"match": `(?s)^(?:/only/.*)$`, "literals": 6}, "rules": [], "deny_rules": [],
		},
	],
	"hosts": {
		"api.test": {"first": 0, "ports": {"443": [0, 1, 2]}},
		"chat.test": {"first": 3, "ports": {"443": [3]}},
		"plain.test": {"first": 4, "ports": {"443": [4]}},
		"write.test": {"first": 5, "ports": {"443": [5]}},
		"scoped.test": {"first": 6, "ports": {"443": [6]}},
	},
	"wildcards": {},
	"depths": [],
	"networks": {},
	"programs": {
		"api": [{"paths": {"/bin/client": true}, "taints": {}}],
		"docs": [{"paths": {"/bin/client": true, "/bin/reader": true}, "taints": {}}],
	},
}

decide(program, host, req) := d if {
	d := request.decision with data.ringfence.index as index with input as {
		"exec": {"path": program, "taints": [], "ancestors": [], "uid": 1000},
		"network": {"host": host, "port": 443},
		"request": object.union({"query": {}}, req),
	}
}

outcome(host, req) := [d.verdict, d.reason, d.endpoint, d.rule] if d := decide("/bin/client", host, req)

api(method, path) := outcome("api.test", {"method": method, "path": path})

query(method, path, values) := outcome("api.test", {"method": method, "path": path, "query": values})

test_rule if {
	api("GET", "/repos/a/b") == ["allow", "allowed", "api[0]", "rules[0]"]
	api("HEAD", "/repos/a/b") == ["allow", "allowed", "api[0]", "rules[0]"]
	api("PUT", "/any") == ["allow", "allowed", "api[0]", "rules[2]"]
	api("PATCH", "/where/ever") == ["allow", "allowed", "api[0]", "rules[3]"]
}

test_no_rule if {
	api("DELETE", "/repos/a/b") == ["deny", "no_rule", "api[0]", ""]
	api("GET", "/") == ["deny", "no_rule", "api[0]", ""]
}

test_method_is_told_apart_by_case if {
	api("get", "/repos/a/b") == ["deny", "no_rule", "api[0]", ""]
}

test_deny_rule_beats_rule if {
	api("GET", "/repos/secret/x") == ["deny", "deny_rule", "api[0]", "deny_rules[0]"]
	api("HEAD", "/repos/secret/x") == ["deny", "deny_rule", "api[0]", "deny_rules[0]"]
}

test_query_of_a_rule_wants_every_value if {
	query("POST", "/search", {"q": ["ab"]})[1] == "allowed"
	query("POST", "/search", {"q": ["ab", "a"]})[1] == "allowed"
	query("POST", "/search", {"q": ["ab", "x"]})[1] == "no_rule"
	query("POST", "/search", {"q": []})[1] == "no_rule"
	query("POST", "/search", {"other": ["ab"]})[1] == "no_rule"
	query("POST", "/search", {})[1] == "no_rule"
}

test_query_of_a_deny_rule_wants_one_value if {
	query("GET", "/repos/a", {"force": ["1"]})[1] == "deny_rule"
	query("GET", "/repos/a", {"force": []})[1] == "allowed"
	query("GET", "/repos/a", {"other": ["1"]})[1] == "allowed"
}

test_encoded_slash if {
	api("GET", "/repos/a%2Fb") == ["deny", "encoded_slash", "api[0]", ""]
	api("GET", "/repos/a%2fb") == ["deny", "encoded_slash", "api[0]", ""]
	api("GET", "/docs/a%2fb")[1] == "allowed"
}

test_path_chooses_the_endpoint if {
	api("GET", "/docs/a") == ["allow", "allowed", "docs[0]", "access"]
	api("POST", "/docs/drafts/a") == ["allow", "allowed", "docs[1]", "access"]
}

test_audit_lets_through_and_says_so if {
	api("POST", "/docs/a") == ["audit", "no_rule", "docs[0]", ""]
}

test_no_endpoint_for_the_path if {
	outcome("scoped.test", {"method": "GET", "path": "/elsewhere"}) == ["deny", "no_rule", "scoped[0]", ""]
	outcome("scoped.test", {"method": "GET", "path": "/only/this"}) == ["allow", "allowed", "scoped[0]", "access"]
}

test_presets if {
	read := {method | some method in methods; api(method, "/docs/a")[0] == "allow"}
	read == {"GET", "HEAD", "OPTIONS"}
	write := {method | some method in methods; outcome("write.test", {"method": method, "path": "/"})[0] == "allow"}
	write == {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"}
	full := {method | some method in methods; api(method, "/docs/drafts/a")[0] == "allow"}
	full == methods
}

methods := {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "get"}

test_endpoints_of_other_programs_have_no_say if {
	d := decide("/bin/reader", "api.test", {"method": "GET", "path": "/repos/a"})
	[d.verdict, d.reason, d.policy] == ["deny", "no_rule", "docs"]
}

test_other_protocols_cannot_be_judged if {
	outcome("chat.test", {"method": "GET", "path": "/"}) == ["deny", "inspection_unavailable", "chat[0]", ""]
}

test_uninspected_is_decided_with_the_connection if {
	d := decide("/bin/client", "plain.test", {"method": "DELETE", "path": "/"})
	[d.verdict, d.reason, d.policy] == ["allow", "allowed", "plain"]
}

test_denied_connection if {
	d := decide("/bin/other", "api.test", {"method": "GET", "path": "/repos/a"})
	[d.verdict, d.reason] == ["deny", "wrong_binary"]
}

test_custom_denial if {
	d := request.decision with data.ringfence.index as index
		with data.ringfence.custom.deny as {"no"}
		with input as {
			"exec": {"path": "/bin/client", "taints": [], "ancestors": [], "uid": 1000},
			"network": {"host": "api.test", "port": 443},
			"request": {"method": "GET", "path": "/repos/a", "query": {}},
		}
	[d.verdict, d.reason, d.policy, d.objections] == ["deny", "custom_rule", "api", ["no"]]
}
