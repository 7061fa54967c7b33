package ringfence.network_test

import data.ringfence.network

# What internal/policy makes of: git and everything below /opt/tools/ may reach
# github.com and *.example.com; curl may reach 10.42.0.0/16 and one inspected host.
index := {
	"endpoints": [
		{"policy": "code", "field": "code[0]", "inspect": false, "allowed_ips": []},
		{"policy": "read", "field": "read[0]", "inspect": true, "allowed_ips": []},
		{"policy": "code", "field": "code[1]", "inspect": false, "allowed_ips": ["10.0.0.0/16"]},
		{"policy": "pods", "field": "pods[0]", "inspect": false, "allowed_ips": ["10.42.0.0/16"]},
	],
	"hosts": {
		"github.com": {"first": 0, "ports": {"443": [0]}},
		"api.example.net": {"first": 1, "ports": {"443": [1]}},
	},
	"wildcards": {"example.com": {`^[^.]+\.example\.com$`: {"first": 2, "ports": {"443": [2], "8443": [2]}}}},
	"depths": [2],
	"networks": {"10.42": {"10.42.0.0/16": {"first": 3, "ports": {"8080": [3], "6443": [3]}}}},
	"policies": {
		"code": {"binaries": {"/usr/bin/git": true}, "globs": `(?s)^(?:/opt/tools/.*)$`},
		"read": {"binaries": {"/usr/bin/curl": true}},
		"pods": {"binaries": {"/usr/bin/curl": true}},
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

test_network_without_host if {
	outcome(clean("/usr/bin/curl"), pod(8080)) == ["allow", "allowed", "pods"]
	outcome(clean("/usr/bin/curl"), pod(6443)) == ["deny", "port_refused", "pods"]
	outcome(clean("/usr/bin/curl"), pod(80)) == ["deny", "wrong_port", "pods"]
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
