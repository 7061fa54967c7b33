package policy

// Protocol is what is spoken at an endpoint.
type Protocol string

// The protocols that code tells apart.
const (
	protocolTCP  Protocol = "tcp"
	protocolREST Protocol = "rest"
)

func (*Protocol) words() []string {
	return []string{"tcp", "rest", "websocket", "graphql", "mcp", "json-rpc", "sql"}
}

// TLS is what is done with an endpoint's TLS.
type TLS string

// The ways that code tells apart.
const (
	tlsAuto      TLS = "auto"
	tlsTerminate TLS = "terminate"
)

func (*TLS) words() []string { return []string{"auto", "terminate", "passthrough", "skip"} }

// Enforcement is what happens to a request that is not allowed.
type Enforcement string

const enforce Enforcement = "enforce"

func (*Enforcement) words() []string { return []string{"enforce", "audit"} }

// Access is a preset of allowed requests.
type Access string

// The presets.
const (
	accessReadOnly  Access = "read-only"
	accessReadWrite Access = "read-write"
	accessFull      Access = "full"
)

func (*Access) words() []string {
	return []string{string(accessReadOnly), string(accessReadWrite), string(accessFull)}
}

// Compatibility is how strictly the file system must be fenced.
type Compatibility string

const hardRequirement Compatibility = "hard_requirement"

func (*Compatibility) words() []string { return []string{"best_effort", "hard_requirement"} }
