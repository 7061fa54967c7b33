# Layer 4 of a policy: may this program image connect to this host and port?
#
# input says who and where to:
#
#   exec     path, taints, links, sha256, ancestors[] (the same of each, nearest first), uid
#   network  host, port, address (only where the host is an IP literal)
#
# links are the symbolic links that a policy names and that lead to the image: {path, taints}.
# links and sha256 are there only where there is something to say.
#
# data.ringfence.index is the policy, compiled by internal/policy so that a
# decision looks things up and never walks the whole of it:
#
#   endpoints  list, the most specific first: policy, key, field, tier, inspect, allowed_ips;
#              what request.rego judges by stands there as well
#   hosts      exact host -> entry
#   wildcards  literal suffix -> anchored regular expression -> entry
#   depths     how many labels those suffixes have
#   networks   bucket (see buckets) -> CIDR -> entry, for endpoints without a host
#   programs   key of a policy -> groups of binaries with the same conditions:
#              {paths: {path: true}, globs: one anchored expression, taints: {name: true}, sha256}
#
# An entry is {first: number, ports: {port: [number, ...]}}, where a number is a
# place in endpoints. Numbers are the order of precedence: the smallest decides.
package ringfence.network

import data.ringfence.index

host := input.network.host

port := format_int(input.network.port, 10)

# decision is what the agent asks for: the ruling, unless a module of the
# operator's objects to what it allows.
decision := object.union(ruling, objection) if {
	ruling.verdict != "deny"
	objection
} else := ruling

objection := {"verdict": "deny", "reason": "custom_rule", "objections": objections} if count(objections) > 0

objections := sort([sprintf("%v", [message]) | some message in data.ringfence.custom.deny])

# Below what is granted stand the denials, from the nearest miss to the farthest.
default ruling := {
	"verdict": "deny",
	"reason": "no_endpoint",
	"policy": "",
	"endpoint": "",
	"inspect": false,
	"allowed_ips": [],
}

# Requests to be inspected cannot be, yet: so nothing passes.
ruling := answer("deny", "inspection_unavailable", granted) if {
	index.endpoints[granted].inspect
} else := answer("allow", "allowed", granted) if {
	granted
} else := answer("deny", "hash_mismatch", number) if {
	number := min(mismatched)
} else := answer("deny", "hash_unavailable", number) if {
	number := min(unhashed)
} else := answer("deny", "hash_changed", number) if {
	number := min(superseded)
} else := answer("deny", "tainted", number) if {
	number := min(called)
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

granted := min(granting)

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

# Programs: a group of binaries is meant for an image by its own path or by that
# of an ancestor.

# calls are the ways in which groups of the policies at hand call an image: policy,
# group, image (0 is the program, its ancestors follow), and the taints of the link,
# if it is one.
calls contains [key, g, i, []] if {
	some key in named_policies
	some g, group in index.programs[key]
	some i, image in images
	group.paths[image.path]
}

calls contains [key, g, i, []] if {
	some key in named_policies
	some g, group in index.programs[key]
	some i, image in images
	regex.match(group.globs, image.path)
}

calls contains [key, g, i, link.taints] if {
	some i, image in images
	some link in image.links
	some key in named_policies
	some g, group in index.programs[key]
	group.paths[link.path]
}

named_policies := {index.endpoints[number].key | some number in named}

images := array.concat([input.exec], input.exec.ancestors)

# A tainted image is not simply the file that its path names. Where the group does
# not put up with the taint, it matches nothing, not even by its ancestors; and an
# ancestor that is tainted lends its path to no one.
fits contains [key, g, i] if {
	some [key, g, i, taints] in calls
	group := index.programs[key][g]
	tolerates(group, taints)
	tolerates(group, taints_of(group, images[i]))
	tolerates_program(group, i)
}

# The program itself must be put up with too, where it is an ancestor that matches.
tolerates_program(_, 0)

tolerates_program(group, i) if {
	i > 0
	tolerates(group, input.exec.taints)
}

tolerates(group, taints) if {
	taints == []
} else if {
	every taint in taints { tolerated(group, taint) }
}

tolerated(group, taint) if {
	group.taints[taint]
} else if {
	noted[taint]
}

# These are told, and keep nothing from matching: in a sandbox the one has no
# effect, and the other an interpreter does as well when it is given a file.
noted := {"setuid", "script"}

# Where a hash is asked for, it says which file is meant, and not what was used first.
taints_of(group, image) := image.taints if {
	not group.sha256
} else := unchanged(image.taints)

unchanged(taints) := [taint | some taint in taints; taint != "changed"]

granting contains number if {
	some [key, g, i] in fits
	pinned(index.programs[key][g], images[i])
	some number in named
	index.endpoints[number].key == key
}

pinned(group, image) if {
	not group.sha256
} else if {
	group.sha256 == image.sha256
}

# What is missing is the hash, or it is another file's.
mismatched contains number if {
	some [key, g, i] in fits
	images[i].sha256 != index.programs[key][g].sha256
	some number in named
	index.endpoints[number].key == key
}

unhashed contains number if {
	some [key, g, i] in fits
	index.programs[key][g].sha256
	not images[i].sha256
	some number in named
	index.endpoints[number].key == key
}

# Nothing is against it but that another file was first used under its path.
superseded contains number if {
	some [key, g, i, taints] in calls
	group := index.programs[key][g]
	tolerates(group, taints)
	every taints_of_it in [images[i].taints, input.exec.taints] {
		tolerates(group, unchanged(taints_of_it))
	}
	not fits[[key, g, i]]
	some number in named
	index.endpoints[number].key == key
}

# A path of it would match, whatever is against the rest.
called contains number if {
	some [key, _, _, _] in calls
	some number in named
	index.endpoints[number].key == key
}

# declared is true where any endpoint names the host, whatever the port and the
# program: the sandbox's DNS answers for such names only.
declared if index.hosts[host]

declared if wildcard_entries != []
