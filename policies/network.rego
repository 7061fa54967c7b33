# Layer 4 of a policy: may this program image connect to this host and port?
#
# input says who and where to:
#
#   exec     path, taints, ancestors[] {path, taints} (nearest first), uid
#   network  host, port, address (only where the host is an IP literal)
#
# data.ringfence.index is the policy, compiled by internal/policy so that a
# decision looks things up and never walks the whole of it:
#
#   endpoints  list, the most specific first: policy, field, inspect, allowed_ips
#   hosts      exact host -> entry
#   wildcards  literal suffix -> anchored regular expression -> entry
#   depths     how many labels those suffixes have
#   networks   bucket (see buckets) -> CIDR -> entry, for endpoints without a host
#   policies   key -> {binaries: {path: true}, globs: one anchored expression}
#
# An entry is {first: number, ports: {port: [number, ...]}}, where a number is a
# place in endpoints. Numbers are the order of precedence: the smallest decides.
package ringfence.network

import data.ringfence.index

host := input.network.host

port := format_int(input.network.port, 10)

# decision is the one document that the agent asks for. Below what is granted
# stand the denials, from the nearest miss to the farthest.
default decision := {
	"verdict": "deny",
	"reason": "no_endpoint",
	"policy": "",
	"endpoint": "",
	"inspect": false,
	"allowed_ips": [],
}

# Requests to be inspected cannot be, yet: so nothing passes.
decision := answer("deny", "inspection_unavailable", granted) if {
	index.endpoints[granted].inspect
} else := answer("allow", "allowed", granted) if {
	granted
} else := answer("deny", "tainted", number) if {
	number := min(numbers_for(all_paths))
} else := answer("deny", "wrong_binary", number) if {
	number := min(named)
} else := answer("deny", "port_refused", number) if {
	number := min(walled)
} else := answer("deny", "wrong_port", number) if {
	number := min(nearest)
}

answer(verdict, reason, number) := {
	"verdict": verdict,
	"reason": reason,
	"policy": endpoint.policy,
	"endpoint": endpoint.field,
	"inspect": endpoint.inspect,
	"allowed_ips": endpoint.allowed_ips,
} if {
	endpoint := index.endpoints[number]
}

granted := min(numbers_for(clean_paths))

# Endpoints: those that name the host and the port.

named contains number if some number in index.hosts[host].ports[port]

named contains number if {
	some entry in wildcard_entries
	some number in entry.ports[port]
}

named contains number if {
	some number in by_network
	not input.network.port in cluster_ports
}

walled contains number if {
	some number in by_network
	input.network.port in cluster_ports
}

# Endpoints without a host never open the ports by which a cluster is governed.
cluster_ports := {2379, 2380, 6443, 10250, 10255}

by_network contains number if {
	some entry in network_entries
	some number in entry.ports[port]
}

# A name is looked for under each of its suffixes that any wildcard ends in. (An
# address has none: no wildcard ends in a number.)
wildcard_entries := [entry |
	some depth in index.depths
	depth < count(labels)
	suffix := concat(".", array.slice(labels, count(labels) - depth, count(labels)))
	some pattern, entry in index.wildcards[suffix]
	regex.match(pattern, host)
]

labels := split(host, ".")

network_entries := [entry |
	some bucket in buckets
	some cidr, entry in index.networks[bucket]
	net.cidr_contains(cidr, input.network.address)
]

# A network of /16 or longer stands under the first two bytes of its addresses
# in canonical text, one of /8 to /15 (IPv4) under the first, the rest under "".
buckets := ["", bytes[0], concat(".", array.slice(bytes, 0, 2))] if {
	bytes := split(input.network.address, ".")
	count(bytes) == 4
} else := ["", split(input.network.address, ":")[0]]

nearest contains index.hosts[host].first

nearest contains entry.first if some entry in wildcard_entries

nearest contains entry.first if some entry in network_entries

# Programs: a policy is meant for an image by its own path or by an ancestor's.

# A tainted image is not simply the file that its path names, so it matches
# nothing, not even by its ancestors; a tainted ancestor lends its path to no one.
clean_paths contains input.exec.path if input.exec.taints == []

clean_paths contains image.path if {
	input.exec.taints == []
	some image in input.exec.ancestors
	image.taints == []
}

all_paths contains input.exec.path

all_paths contains image.path if some image in input.exec.ancestors

numbers_for(paths) := {number |
	some number in named
	runs(index.policies[index.endpoints[number].policy], paths)
}

runs(policy, paths) if {
	some path in paths
	policy.binaries[path]
}

runs(policy, paths) if {
	some path in paths
	regex.match(policy.globs, path)
}

# declared is true where any endpoint names the host, whatever the port and the
# program: the sandbox's DNS answers for such names only.
declared if index.hosts[host]

declared if wildcard_entries != []
