package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Each error and warning that the format asks for, by name: a golden file gives
// it. TestLoadGolden makes sure that what these say is what the loader says.
func TestEveryLoadErrorIsGiven(t *testing.T) {
	for _, test := range []struct{ name, file, line string }{
		// The file.
		{"no version", "no_version", `error: x.yaml:1:1: has no version`},
		{"another version", "version_two", `version: "2" is unknown`},
		{"no YAML", "syntax", `is not YAML`},
		{"relative path", "process", `"usr" is not absolute`},
		{"relative path that may be written", "filesystem", `"tmp" is not absolute`},
		{"path with ..", "process", `"/a/../b" holds ..`},
		{"path with .. that may be written", "filesystem", `"/a/../.." holds ..`},
		{"the root may be written", "process", `"/" would make everything writable`},
		{"the root by another name may be written", "filesystem", `"/./." would make everything writable`},
		{"unknown compatibility", "process", `"maybe" is unknown`},
		{"compatibility that requires nothing", "hard_requirement", `no filesystem_policy says how`},
		{"root as the user", "process", `run_as_user: root is refused`},
		{"root as the group, by number", "process", `run_as_group: 0 is root`},
		{"user beyond the numbers", "process_numbers", `is not a number from 1 to 4294967294`},

		// Endpoints.
		{"unknown protocol", "inspection_errors", `protocol: "http" is unknown`},
		{"unknown tls", "inspection_errors", `tls: "none" is unknown`},
		{"unknown enforcement", "inspection_errors", `enforcement: "warn" is unknown`},
		{"unknown access", "inspection_errors", `access: "write" is unknown`},
		{"port and ports", "ports", `port and ports are both given`},
		{"neither port nor ports", "ports", `has no port`},
		{"port 0", "ports", `"0" is not a port`},
		{"port 0 of several", "ports", `ports[1]: "0" is not a port`},
		{"port 65536", "ports", `"65536" is not a port`},
		{"neither host nor allowed_ips", "hosts", `endpoints[0]: has neither host nor allowed_ips`},
		{"empty host without allowed_ips", "hosts", `endpoints[1]: has neither host nor allowed_ips`},
		{"rules and access", "inspection_errors", `rules and access are both given`},
		{"layer 7 without rules or access", "inspection_errors", `rest inspects requests, and there are no rules`},
		{"empty rules", "empty_lists", `rules: is empty`},
		{"empty deny_rules", "empty_lists", `deny_rules: is empty`},
		{"empty binaries", "empty_lists", `binaries: is empty`},
		{"empty endpoints", "empty_lists", `endpoints: is empty`},
		{"empty ports", "empty_lists", `ports: is empty`},
		{"empty allowed_ips", "empty_lists", `allowed_ips: is empty`},
		{"no endpoints", "empty_lists", `q: has no endpoints`},
		{"no binaries", "empty_lists", `q: has no binaries`},
		{"deny_rules without a protocol", "deny_rules", `endpoints[2].deny_rules: needs a protocol`},
		{"deny_rules without a base", "deny_rules", `endpoints[1].deny_rules: has nothing to take from`},
		{"rule path that starts with neither", "inspection_errors", `"api" never matches: a path starts with / or **`},
		{"deny_rules path that starts with neither", "deny_rules", `"*" never matches: a path starts with / or **`},
		{"path of an endpoint that starts with neither", "inspection_errors", `endpoints[11].path: "api" never matches`},
		{"overlap with tls", "conflict_fields", `differs in tls`},
		{"overlap with allowed_ips", "conflict_fields", `differs in allowed_ips`},
		{"overlap with enforcement", "conflict_fields", `differs in enforcement`},
		{"overlap with protocol", "conflict_fields", `differs in protocol`},
		{"overlap of wildcards", "conflict_fields", `endpoints[7] (x.yaml:12:9)`},
		{"allowed_ips that are always refused", "allowed_ips", `127.0.0.1 overlaps 127.0.0.0/8, which is always refused`},
		{"allowed_ips that hold what is always refused", "allowed_ips", `0.0.0.0/0 overlaps`},
		{"warning: wider than /16", "allowed_ips", `warning: x.yaml:23:13: network_policies.p.endpoints[0].allowed_ips[15]: 10.0.0.0/8 is very wide`},

		// Hosts.
		{"*", "hosts", `"*" is too broad`},
		{"**", "hosts", `"**" is too broad`},
		{"*.com", "hosts", `"*.com" is too broad`},
		{"**.com", "hosts", `"**.com" is too broad`},
		{"a.*.com", "hosts", `"a.*.com" is too broad`},
		{"partial wildcard in another label", "hosts", `"a.b-*.example.com" may have * within a label only in the first`},
		{"** in another label", "hosts", `"a.**.example.com" may have ** only as the whole first label`},
		{"** as a part of the first label", "hosts", `"us-**.example.com" may have ** only as the whole first label`},
		{"pattern that can never match", "hosts", `"*.0.0.1" never matches`},
		{"pattern that can never match, by its form", "hosts", `"-*.example.com" never matches`},
		{"glob of a program that can never match", "binaries", `"**" never matches`},
		{"path of a program that can never match", "binaries", `"/usr//bin/curl" never matches`},

		// Protocol tcp.
		{"tcp with an IPv4 literal", "tcp", `protocol tcp wants a name, not the address 192.0.2.1`},
		{"tcp with an IPv6 literal", "tcp", `protocol tcp wants a name, not the address 2001:db8::1`},
		{"tcp with access", "tcp", `access: is for inspected requests`},
		{"tcp with rules", "tcp", `rules: is for inspected requests`},
		{"tcp with deny_rules", "tcp", `deny_rules: is for inspected requests`},
		{"tcp with enforcement", "tcp", `enforcement: is for inspected requests`},
		{"tcp with path", "tcp", `path: is for inspected requests`},
		{"tcp with allow_encoded_slash", "tcp", `allow_encoded_slash: is for inspected requests`},
		{"tcp with tls: terminate", "tcp", `tls: terminate is for inspected requests`},

		// Later additions are refused by name.
		{"network_middlewares", "not_yet", `network_middlewares: is not enforced by this version`},
		{"credential_signing", "not_yet", `credential_signing: is not enforced by this version`},
		{"websocket_credential_rewrite", "not_yet", `websocket_credential_rewrite: is not enforced by this version`},
		{"request_body_credential_rewrite", "not_yet", `request_body_credential_rewrite: is not enforced by this version`},
		{"graphql_*", "not_yet", `graphql_max_depth: is not enforced by this version`},
		{"json_rpc", "not_yet", `json_rpc: is not enforced by this version`},
		{"mcp", "not_yet", `mcp: is not enforced by this version`},

		// Unknown fields, at every level.
		{"unknown at the top", "unknown_nested", `: other: unknown field`},
		{"unknown section that is near to one", "unknown_fields", `network_polices: unknown field, did you mean network_policies?`},
		{"unknown in filesystem_policy", "unknown_nested", `filesystem_policy.other: unknown field`},
		{"unknown in landlock", "unknown_nested", `landlock.other: unknown field`},
		{"unknown in process", "unknown_nested", `process.other: unknown field`},
		{"unknown in a policy", "unknown_nested", `network_policies.p.other: unknown field`},
		{"unknown in an endpoint", "unknown_nested", `endpoints[0].other: unknown field`},
		{"unknown in rules", "unknown_nested", `rules[0].other: unknown field`},
		{"unknown in allow", "unknown_nested", `rules[0].allow.other: unknown field`},
		{"unknown in a matcher", "unknown_nested", `rules[0].allow.query.q.other: unknown field`},
		{"unknown in deny_rules", "unknown_nested", `deny_rules[0].other: unknown field`},
		{"unknown in a binary", "unknown_nested", `binaries[0].other: unknown field`},

		// Duplicates, at every level.
		{"twice at the top", "duplicates", `version: is given twice`},
		{"twice in a section", "duplicates", `process.run_as_user: is given twice`},
		{"a policy twice", "duplicates", `network_policies.p: is given twice`},
		{"twice in a policy", "duplicates", `p.binaries: is given twice`},
		{"twice in an endpoint", "duplicates", `endpoints[0].host: is given twice`},
		{"twice in rules", "duplicates", `rules[0].allow: is given twice`},
		{"twice in a rule", "duplicates", `allow.method: is given twice`},
		{"twice in a query", "duplicates", `query.q: is given twice`},
		{"twice in a binary", "duplicates", `binaries[0].path: is given twice`},
		{"a name twice", "names", `the name shared is taken`},
	} {
		data, err := os.ReadFile(filepath.Join("testdata/load", test.file+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		_, lines := splitGolden(string(data))
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, test.line) }) {
			t.Errorf("%s: no line of %s has %q", test.name, test.file, test.line)
		}
	}
}

// Every field that is read refuses what is of another type: wrong_types.yaml has
// each once.
func TestEveryFieldHasAType(t *testing.T) {
	data, err := os.ReadFile("testdata/load/wrong_types.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, lines := splitGolden(string(data))
	for _, field := range []string{
		"version", "include_workdir", "read_only", "read_write", "landlock", "run_as_user", "run_as_group",
		"name", "host", "port", "ports", "protocol", "tls", "enforcement", "access", "rules", "deny_rules", "allowed_ips", "path",
		"allow_encoded_slash", "allow", "method", "query", "any", "harness", "sha256", "allow_taints",
	} {
		if !slices.ContainsFunc(lines, func(line string) bool {
			return strings.HasPrefix(line, "error: ") && (strings.Contains(line, "."+field+": ") || strings.Contains(line, " "+field+": "))
		}) {
			t.Errorf("%s takes any type", field)
		}
	}
}

// Bounds: what is at one loads, what is over it is refused.
func TestLoadBounds(t *testing.T) {
	list := func(n int, item func(i int) string) string {
		items := make([]string, n)
		for i := range items {
			items[i] = item(i)
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	path := func(i int) string { return fmt.Sprintf("/p%d", i) }
	endpoint := func(fields string) string {
		return "network_policies: {p: {binaries: [{path: /x}], endpoints: [{host: h.example.com, port: 1, " + fields + "}]}}"
	}
	const inspected = "protocol: rest, access: full, "
	rule := func(int) string { return "{allow: {method: GET}}" }
	denied := func(int) string { return "{method: GET}" }
	for _, test := range []struct {
		name  string
		limit int
		text  func(n int) string
		over  string // in the error one above the limit
	}{
		{"path that may be read", 4096, func(n int) string { return "filesystem_policy: {read_only: [/" + strings.Repeat("x", n-1) + "]}" }, "has 4097 bytes, at most 4096"},
		{"path that may be written", 4096, func(n int) string { return "filesystem_policy: {read_write: [/" + strings.Repeat("x", n-1) + "]}" }, "has 4097 bytes, at most 4096"},
		{"paths that may be read", 256, func(n int) string { return "filesystem_policy: {read_only: " + list(n, path) + "}" }, "has 257 entries, at most 256"},
		{"paths of both kinds", 256, func(n int) string {
			return "filesystem_policy: {read_only: " + list(n/2, path) + ", read_write: " + list(n-n/2, path) + "}"
		}, "has 257 paths, at most 256"},
		{"path of a program", 4096, func(n int) string {
			return "network_policies: {p: {binaries: [{path: /" + strings.Repeat("x", n-1) + "}], endpoints: [{host: h.example.com, port: 1}]}}"
		}, "has 4097 bytes, at most 4096"},
		{"binaries", 256, func(n int) string {
			return "network_policies: {p: {binaries: " + list(n, func(i int) string { return "{path: " + path(i) + "}" }) + ", endpoints: [{host: h.example.com, port: 1}]}}"
		}, "has 257 entries, at most 256"},
		{"ports", 64, func(n int) string {
			return "network_policies: {p: {binaries: [{path: /x}], endpoints: [{host: h.example.com, ports: " + list(n, func(i int) string { return fmt.Sprint(i + 1) }) + "}]}}"
		}, "has 65 entries, at most 64"},
		{"allowed_ips", 64, func(n int) string {
			return endpoint("allowed_ips: " + list(n, func(i int) string { return fmt.Sprintf("10.0.0.%d", i) }))
		}, "has 65 entries, at most 64"},
		{"rules", 256, func(n int) string { return endpoint("protocol: rest, rules: " + list(n, rule)) }, "has 257 entries, at most 256"},
		{"deny_rules", 256, func(n int) string { return endpoint(inspected + "deny_rules: " + list(n, denied)) }, "has 257 entries, at most 256"},
		{"path of a rule", 4096, func(n int) string {
			return endpoint(inspected + "deny_rules: [{path: /" + strings.Repeat("x", n-1) + "}]")
		}, "has 4097 bytes, at most 4096"},
		{"values of a query", 256, func(n int) string {
			return endpoint(inspected + "deny_rules: [{query: {q: {any: " + list(n, path) + "}}}]")
		}, "has 257 entries, at most 256"},
		{"keys of a query", 64, func(n int) string {
			return endpoint(inspected + "deny_rules: [{query: {" + strings.Trim(list(n, func(i int) string { return fmt.Sprintf("k%d: x", i) }), "[]") + "}}]")
		}, "has 65 entries, at most 64"},
		{"key of a policy", 64, func(n int) string {
			return "network_policies: {" + strings.Repeat("p", n) + ": {binaries: [{path: /x}], endpoints: [{host: h.example.com, port: 1}]}}"
		}, "a policy's key has 1 to 64"},
		{"name of a policy", 253, func(n int) string {
			return "network_policies: {p: {name: " + strings.Repeat("n", n) + ", binaries: [{path: /x}], endpoints: [{host: h.example.com, port: 1}]}}"
		}, "has 254 bytes, at most 253"},
		{"user", 32, func(n int) string { return "process: {run_as_user: " + strings.Repeat("u", n) + "}" }, "has 33 bytes, at most 32"},
		{"method", 32, func(n int) string {
			return endpoint(inspected + "deny_rules: [{method: " + strings.Repeat("M", n) + "}]")
		}, "has 33 bytes, at most 32"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, _, err := Load(Source{"x.yaml", []byte("version: 1\n" + test.text(test.limit))}); err != nil {
				t.Errorf("at the limit: %.200v", err)
			}
			_, _, err := Load(Source{"x.yaml", []byte("version: 1\n" + test.text(test.limit+1))})
			if err == nil || !strings.Contains(err.Error(), test.over) {
				t.Errorf("over the limit: %.200v, want %s", err, test.over)
			}
		})
	}
}

// A second word on the same matter names the first, over files as within one.
func TestLoadNamesBothPlaces(t *testing.T) {
	policy := func(key, name string) string {
		return "version: 1\nnetwork_policies:\n  " + key + ":\n    name: " + name + "\n    binaries: [{path: /x}]\n    endpoints: [{host: h.example.com, port: 1}]\n"
	}
	for _, test := range []struct{ name, one, two, want string }{
		{"process", "version: 1\nprocess: {run_as_user: a}\n", "version: 1\n\nprocess: {run_as_group: b}\n",
			"two.yaml:3:10: process: is also defined at one.yaml:2:10; one of the two must go"},
		{"filesystem_policy", "version: 1\nfilesystem_policy: {read_only: [/a]}\n", "version: 1\nfilesystem_policy: {read_only: [/b]}\n",
			"two.yaml:2:20: filesystem_policy: is also defined at one.yaml:2:20; one of the two must go"},
		{"landlock", "version: 1\nlandlock: {}\n", "version: 1\nlandlock: {}\n",
			"two.yaml:2:11: landlock: is also defined at one.yaml:2:11; one of the two must go"},
		{"key", policy("k", "a"), policy("k", "b"),
			"two.yaml:3:3: network_policies.k: is also defined at one.yaml:3:3; one of the two must go"},
		{"name", policy("a", "n"), policy("b", "n"),
			"two.yaml:3:3: network_policies.b: the name n is taken: it stands at one.yaml:3:3; one of the two must go"},
		{"name that is a key", policy("a", "n"), policy("b", "a"), ""},
		{"key that is a name", policy("a", "b"), policy("b", "b"),
			"two.yaml:3:3: network_policies.b: the name b is taken: it stands at one.yaml:3:3; one of the two must go"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := Load(Source{"one.yaml", []byte(test.one)}, Source{"two.yaml", []byte(test.two)})
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// Overlaps are found over files too.
func TestLoadFindsConflictsOverFiles(t *testing.T) {
	text := func(key, tls string) []byte {
		return []byte("version: 1\nnetwork_policies:\n  " + key + ":\n    binaries: [{path: /x}]\n    endpoints: [{host: h.example.com, port: 1, tls: " + tls + "}]\n")
	}
	_, _, err := Load(Source{"one.yaml", text("a", "skip")}, Source{"two.yaml", text("b", "passthrough")})
	want := "two.yaml:5:17: network_policies.b.endpoints[0]: overlaps the equally specific network_policies.a.endpoints[0] (one.yaml:5:17) for the same programs, and differs in tls"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
