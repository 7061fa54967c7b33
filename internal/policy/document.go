package policy

// File is one policy file, as it is written. This type and those below it are the
// schema: the reader fills them in, the JSON Schema is generated from them, and
// their comments are what an editor shows.
//
// The tag jsonschema says what must be there and how many items there may be; the
// tag empty, what to write instead of an empty list, and missing, what to write
// where a required field is not there.
type File struct {
	mapping `yaml:"-"`

	// Version of the format: 1.
	Version Version `yaml:"version" jsonschema:"required" missing:"write \"version: 1\""`
	// What the sandbox's programs may read and write. Without this section, what its user may.
	FilesystemPolicy *Filesystem `yaml:"filesystem_policy,omitempty"`
	// What is done where the kernel cannot restrict files as asked.
	Landlock *Landlock `yaml:"landlock,omitempty"`
	// Who the sandbox's programs run as.
	Process *Process `yaml:"process,omitempty"`
	// Which programs may connect where, by a key that names each policy. What none of them says is denied.
	NetworkPolicies Networks `yaml:"network_policies,omitempty"`
}

// Filesystem says what the sandbox's programs may read and write. What no path
// names, nor lies beneath one, is closed to them.
type Filesystem struct {
	mapping `yaml:"-"`

	// Whether the working directory is writable too. The default is false.
	IncludeWorkdir bool `yaml:"include_workdir,omitempty"`
	// Absolute paths that may be read, and executed.
	ReadOnly []ReadPath `yaml:"read_only,omitempty" jsonschema:"minItems=1,maxItems=256" empty:"remove the field"`
	// Absolute paths that may be read, executed and written; not the root. What is missing is made a directory of the sandbox's user.
	ReadWrite []WritePath `yaml:"read_write,omitempty" jsonschema:"minItems=1,maxItems=256" empty:"remove the field"`
}

// Landlock says what is done where the kernel cannot fence the file system as
// asked.
type Landlock struct {
	mapping `yaml:"-"`

	// best_effort, the default, goes on with what can be enforced, and warns; hard_requirement starts nothing where a path or the kernel's Landlock is missing.
	Compatibility Compatibility `yaml:"compatibility,omitempty"`
}

// Process says who the sandbox's programs run as. Root is refused.
type Process struct {
	mapping `yaml:"-"`

	// A user's name, or a number from 1.
	RunAsUser Account `yaml:"run_as_user,omitempty"`
	// A group's name, or a number from 1.
	RunAsGroup Account `yaml:"run_as_group,omitempty"`
}

// Network lets some programs reach some places.
type Network struct {
	mapping `yaml:"-"`
	key     string

	// What records call the policy. The default is its key.
	Name string `yaml:"name,omitempty" jsonschema:"maxLength=253"`
	// The places that it opens.
	Endpoints []Endpoint `yaml:"endpoints" jsonschema:"required,minItems=1,maxItems=16384" empty:"a policy without endpoints allows nothing; remove the policy instead"`
	// The programs that it opens them to.
	Binaries []Binary `yaml:"binaries" jsonschema:"required,minItems=1,maxItems=256" empty:"name the programs, or write \"- path: /**\" to allow every one"`
}

// Endpoint is a place that a policy opens: a host and its ports.
type Endpoint struct {
	mapping `yaml:"-"`

	// A name, a wildcard such as *.example.com, or an IP address. It may be left out only with allowed_ips.
	Host Host `yaml:"host,omitempty"`
	// The port. Exactly one of port and ports is given.
	Port Port `yaml:"port,omitempty"`
	// The ports, where there are several.
	Ports []Port `yaml:"ports,omitempty,flow" jsonschema:"minItems=1,maxItems=64" empty:"name the ports; there is no way to write all of them"`
	// What is spoken there. Nothing or tcp: host and port decide. Any other asks for its requests to be inspected, by rules or access.
	Protocol Protocol `yaml:"protocol,omitempty"`
	// What is done with TLS: terminate decrypts, passthrough and skip leave it alone; auto, the default, terminates where requests are inspected.
	TLS TLS `yaml:"tls,omitempty"`
	// What happens to a request that is not allowed: enforce, the default, refuses it, audit only records it.
	Enforcement Enforcement `yaml:"enforcement,omitempty"`
	// Which requests are allowed: read-only is GET, HEAD and OPTIONS, read-write also POST, PUT and PATCH, full is every one. Not beside rules.
	Access Access `yaml:"access,omitempty"`
	// Which requests are allowed, one by one. Not beside access.
	Rules []AllowRule `yaml:"rules,omitempty" jsonschema:"minItems=1,maxItems=256" empty:"write \"access: full\" to allow every request"`
	// Which requests are refused, whatever access and rules allow.
	DenyRules []Rule `yaml:"deny_rules,omitempty" jsonschema:"minItems=1,maxItems=256" empty:"remove the field"`
	// The special-purpose addresses (private networks …) that the host may resolve to; without a host, the addresses that may be dialled.
	AllowedIPs []Prefix `yaml:"allowed_ips,omitempty,flow" jsonschema:"minItems=1,maxItems=64" empty:"remove the field, or name addresses"`
	// The requests that this endpoint is for, where several inspected endpoints have one host and port.
	Path PathGlob `yaml:"path,omitempty"`
	// Whether a request's path may hold %2F, which some servers read as a slash.
	AllowEncodedSlash bool `yaml:"allow_encoded_slash,omitempty"`

	inspect bool // its requests are decided one by one
}

// AllowRule allows some requests.
type AllowRule struct {
	mapping `yaml:"-"`

	// The requests.
	Allow Rule `yaml:"allow" jsonschema:"required"`
}

// Rule describes requests. A part that is left out is that of every request.
type Rule struct {
	mapping `yaml:"-"`

	// The method, or * for any. GET stands for HEAD as well.
	Method Method `yaml:"method,omitempty"`
	// The path, without the query: * is any part of a segment, ** any number of segments.
	Path PathGlob `yaml:"path,omitempty"`
	// The query's values by key. To be allowed, every value of each key must match, and one must be there; to be refused, one is enough.
	Query map[string]Matcher `yaml:"query,omitempty" jsonschema:"minProperties=1,maxProperties=64" empty:"remove the field, or name a key"`
}

// Binary is a program: the file that the kernel runs, or that one of its ancestors
// was started from.
type Binary struct {
	mapping `yaml:"-"`

	// An absolute path in the sandbox. * is any part of a segment, ** any number of segments. Without a star it may be a symbolic link.
	Path BinaryPath `yaml:"path" jsonschema:"required"`
	// The SHA-256 that the file must have, in 64 hexadecimal digits.
	SHA256 Digest `yaml:"sha256,omitempty"`
	// The taints that do not keep the program from matching.
	AllowTaints []TaintName `yaml:"allow_taints,omitempty,flow" jsonschema:"minItems=1,maxItems=16" empty:"remove the field"`
	// Accepted from older files; without effect.
	Harness bool `yaml:"harness,omitempty"`
}
