package ringfence.network_test

import data.ringfence.network

# What internal/policy makes of: git and everything below /opt/tools/ may reach
# github.com and *.example.com; curl may reach 10.42.0.0/16 and one inspected host.
index := {
	"endpoints": [
		{"policy": "code", "key": "code", "field": "code[0]", "tier": 0, "inspect": false, "allowed_ips": []},
		{"policy": "read", "key": "read", "field": "read[0]", "tier": 1, "inspect": true, "allowed_ips": []},
		{"policy": "code", "key": "code", "field": "code[1]", "tier": 2, "inspect": false, "allowed_ips": ["10.0.0.0/16"]},
		{"policy": "all-pods", "key": "pods", "field": "pods[0]", "tier": 3, "inspect": false, "allowed_ips": ["10.42.0.0/16"]},
	],
	"hosts": {
		"github.com": {"first": 0, "ports": {"443": [0]}},
		"api.example.net": {"first": 1, "ports": {"443": [1]}},
	},
	"wildcards": {"example.com": {`^[^.]+\.example\.com$`: {"first": 2, "ports": {"443": [2], "8443": [2]}}}},
	"depths": [2],
	"networks": {"10.42": {"10.42.0.0/16": {"first": 3, "ports": {"8080": [3], "6443": [3]}}}},
	"programs": {
		"code": [
			{"paths": {"/usr/bin/git": true, "/bin/git": true}, "globs": `(?s)^(?:/opt/tools/.*)$`, "taints": {}},
			{"paths": {"/venv/python": true}, "taints": {"writable": true}},
			{"paths": {"/usr/bin/pinned": true}, "taints": {}, "sha256": "abcd"},
		],
		"read": [{"paths": {"/usr/bin/curl": true}, "taints": {}}],
		"pods": [{"paths": {"/usr/bin/curl": true}, "taints": {}}],
	},
}

clean(path) := {"path": path, "taints": [], "ancestors": [], "uid": 1000}

decide(exec, target) := d if {
	d := network.decision with data.ringfence.index as index with input as {"exec": exec, "network": target}
}

outcome(exec, target) := [d.verdict, d.reason, d.policy] if d := decide(exec, target)

github := {"host": "github.com", "port": 443}

pod(port) := {"host": "10.42.1.2", "port": port, "address": "10.42.1.2"}

test_exact_path_is_allowed if {
	outcome(clean("/usr/bin/git"), github) == ["allow", "allowed", "code"]
}

test_glob_is_allowed if {
	outcome(clean("/opt/tools/a/b"), github) == ["allow", "allowed", "code"]
}

test_ancestor_is_allowed if {
	exec := object.union(clean("/bin/sh"), {"ancestors": [{"path": "/usr/bin/git", "taints": []}]})
	outcome(exec, github) == ["allow", "allowed", "code"]
}

test_other_program_is_denied if {
	outcome(clean("/usr/bin/curl"), github) == ["deny", "wrong_binary", "code"]
}

test_tainted_program_is_denied if {
	exec := object.union(clean("/usr/bin/git"), {"taints": ["foreign_root"]})
	outcome(exec, github) == ["deny", "tainted", "code"]
}

test_clean_ancestor_does_not_help_a_tainted_program if {
	exec := object.union(clean("/tmp/x"), {
		"taints": ["memfd"],
		"ancestors": [{"path": "/usr/bin/git", "taints": []}],
	})
	outcome(exec, github) == ["deny", "tainted", "code"]
}

test_tainted_ancestor_does_not_lend_its_path if {
	exec := object.union(clean("/bin/sh"), {"ancestors": [{"path": "/usr/bin/git", "taints": ["deleted"]}]})
	outcome(exec, github) == ["deny", "tainted", "code"]
}

test_other_port_is_denied if {
	outcome(clean("/usr/bin/git"), {"host": "github.com", "port": 22}) == ["deny", "wrong_port", "code"]
	outcome(clean("/usr/bin/git"), {"host": "a.example.com", "port": 22}) == ["deny", "wrong_port", "code"]
}

test_other_host_is_denied if {
	outcome(clean("/usr/bin/git"), {"host": "github.com.evil.test", "port": 443}) == ["deny", "no_endpoint", ""]
}

test_wildcard_takes_one_label if {
	d := decide(clean("/usr/bin/git"), {"host": "a.example.com", "port": 8443})
	d.verdict == "allow"
	d.allowed_ips == ["10.0.0.0/16"]
	outcome(clean("/usr/bin/git"), {"host": "example.com", "port": 443})[1] == "no_endpoint"
	outcome(clean("/usr/bin/git"), {"host": "a.b.example.com", "port": 443})[1] == "no_endpoint"
}

test_inspection_is_denied if {
	d := decide(clean("/usr/bin/curl"), {"host": "api.example.net", "port": 443})
	[d.verdict, d.reason, d.inspect] == ["deny", "inspection_unavailable", true]
}

test_wide_networks_and_IPv6 if {
	networks := {
		"": {"2000::/3": {"first": 3, "ports": {"8080": [3]}}},
		"10": {"10.0.0.0/8": {"first": 3, "ports": {"8080": [3]}}},
	}
	wide := object.union(index, {"networks": networks})
	every address in ["10.1.2.3", "2001:db8::1"] {
		d := network.decision with data.ringfence.index as wide
			with input as {"exec": clean("/usr/bin/curl"), "network": {"host": address, "port": 8080, "address": address}}
		d.verdict == "allow"
	}
}

test_link_stands_for_its_target if {
	exec := object.union(clean("/usr/libexec/git"), {"links": [{"path": "/bin/git", "taints": []}]})
	outcome(exec, github) == ["allow", "allowed", "code"]
}

test_glob_is_not_for_links if {
	exec := object.union(clean("/usr/libexec/x"), {"links": [{"path": "/opt/tools/x", "taints": []}]})
	outcome(exec, github) == ["deny", "wrong_binary", "code"]
}

test_writable_link_must_be_put_up_with if {
	python := {"path": "/venv/python", "taints": ["writable"]}
	outcome(object.union(clean("/usr/bin/python3.11"), {"links": [python]}), github) == ["allow", "allowed", "code"]
	git := {"path": "/bin/git", "taints": ["writable"]}
	outcome(object.union(clean("/usr/bin/python3.11"), {"links": [git]}), github) == ["deny", "tainted", "code"]
}

test_taint_is_put_up_with_by_the_binary_that_names_it if {
	outcome(object.union(clean("/venv/python"), {"taints": ["writable"]}), github) == ["allow", "allowed", "code"]
	outcome(object.union(clean("/venv/python"), {"taints": ["writable", "memfd"]}), github) == ["deny", "tainted", "code"]
	outcome(object.union(clean("/usr/bin/git"), {"taints": ["writable"]}), github) == ["deny", "tainted", "code"]
}

test_hash if {
	outcome(object.union(clean("/usr/bin/pinned"), {"sha256": "abcd"}), github) == ["allow", "allowed", "code"]
	outcome(object.union(clean("/usr/bin/pinned"), {"sha256": "ef01"}), github) == ["deny", "hash_mismatch", "code"]
	outcome(clean("/usr/bin/pinned"), github) == ["deny", "hash_unavailable", "code"]
}

test_noted_taints_keep_nothing_from_matching if {
	outcome(object.union(clean("/usr/bin/git"), {"taints": ["setuid", "script"]}), github) == ["allow", "allowed", "code"]
	outcome(object.union(clean("/usr/bin/git"), {"taints": ["script", "preload"]}), github) == ["deny", "tainted", "code"]
}

test_changed_file_is_denied if {
	outcome(object.union(clean("/usr/bin/git"), {"taints": ["changed"]}), github) == ["deny", "hash_changed", "code"]
	outcome(object.union(clean("/usr/bin/git"), {"taints": ["memfd", "changed"]}), github) == ["deny", "tainted", "code"]
	of_ancestor := {"ancestors": [{"path": "/usr/bin/git", "taints": ["changed"]}]}
	outcome(object.union(clean("/bin/sh"), of_ancestor), github) == ["deny", "hash_changed", "code"]
}

test_hash_says_what_is_meant_and_not_first_use if {
	changed := object.union(clean("/usr/bin/pinned"), {"taints": ["changed"]})
	outcome(object.union(changed, {"sha256": "abcd"}), github) == ["allow", "allowed", "code"]
	outcome(object.union(changed, {"sha256": "ef01"}), github) == ["deny", "hash_mismatch", "code"]
	outcome(changed, github) == ["deny", "hash_unavailable", "code"]
	child := object.union(clean("/bin/sh"), {"ancestors": [{"path": "/usr/bin/pinned", "taints": ["changed"], "sha256": "abcd"}]})
	outcome(child, github) == ["allow", "allowed", "code"]
	outcome(object.union(child, {"taints": ["changed"]}), github) == ["deny", "hash_changed", "code"]
}

# Modules of the operator's.

test_custom_denial if {
	d := network.decision with data.ringfence.index as index
		with data.ringfence.custom.deny as {"not on Sundays", 7}
		with input as {"exec": clean("/usr/bin/git"), "network": github}
	[d.verdict, d.reason, d.policy] == ["deny", "custom_rule", "code"]
	d.objections == ["7", "not on Sundays"]
}

test_custom_modules_cannot_allow if {
	d := network.decision with data.ringfence.index as index
		with data.ringfence.custom as {"allow": {"all"}, "deny": set()}
		with input as {"exec": clean("/usr/bin/curl"), "network": github}
	[d.verdict, d.reason] == ["deny", "wrong_binary"]
}

test_custom_denial_leaves_other_denials_as_they_are if {
	d := network.decision with data.ringfence.index as index
		with data.ringfence.custom.deny as {"no"}
		with input as {"exec": clean("/usr/bin/curl"), "network": github}
	d.reason == "wrong_binary"
}

test_network_without_host if {
	outcome(clean("/usr/bin/curl"), pod(8080)) == ["allow", "allowed", "all-pods"]
	outcome(clean("/usr/bin/curl"), pod(6443)) == ["deny", "port_refused", "all-pods"]
	outcome(clean("/usr/bin/curl"), pod(80)) == ["deny", "wrong_port", "all-pods"]
}

test_network_never_matches_a_name if {
	outcome(clean("/usr/bin/curl"), {"host": "pod.example.org", "port": 8080}) == ["deny", "no_endpoint", ""]
}

test_declared if {
	declared("github.com")
	declared("a.example.com")
	not declared("example.com")
	not declared("com")
}

declared(name) if {
	network.declared with data.ringfence.index as index with input as {"network": {"host": name}}
}

test_no_policy_denies if {
	d := network.decision with data.ringfence.index as {} with input as {"exec": clean("/bin/sh"), "network": github}
	[d.verdict, d.reason] == ["deny", "no_endpoint"]
}
