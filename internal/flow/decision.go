package flow

import "net/netip"

// Verdict is the outcome of a decision. The zero value denies.
type Verdict uint8

// The verdicts.
const (
	Deny  Verdict = iota
	Allow         // the policy allows it
	Audit         // the policy would deny it, and only records that
)

var verdictNames = [...]string{"deny", "allow", "audit"}

// String returns the verdict's name in records. An unknown verdict is a denial.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return verdictNames[Deny]
}

// MarshalText makes the verdict a string in JSON.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Passes reports whether bytes may flow.
func (v Verdict) Passes() bool { return v == Allow || v == Audit }

// Engine names what came to a verdict.
type Engine string

// The engines.
const (
	EngineOPA          Engine = "opa"
	EngineControlPlane Engine = "control_plane"
	EngineSSRF         Engine = "ssrf"
	EngineIdentity     Engine = "identity"
	EngineDNS          Engine = "dns"
	EngineProxy        Engine = "proxy"  // the request to the explicit proxy itself
	EngineSNI          Engine = "sni"    // the name in a TLS ClientHello
	EngineKernel       Engine = "kernel" // a hook
	EngineRelay        Engine = "relay"  // limits of the relay, and the way upstream
	EnginePolicy       Engine = "policy" // the reload of a policy
	EngineSSH          Engine = "ssh"    // the SSH server, and so for ModeSSH
	EngineAPI          Engine = "api"    // the control API, and so for ModeAPI
)

// Reason says why, in a word that tools can match. All reasons stand here.
type Reason string

// Reasons of the policy.
const (
	ReasonAllowed               Reason = "allowed"
	ReasonControlPlane          Reason = "control_plane"
	ReasonNoEndpoint            Reason = "no_endpoint"      // no policy names this host
	ReasonWrongPort             Reason = "wrong_port"       // the host is named, with other ports
	ReasonWrongBinary           Reason = "wrong_binary"     // host and port are named, for other programs
	ReasonTaintedBinary         Reason = "tainted"          // it would match, but for its taints
	ReasonHashMismatch          Reason = "hash_mismatch"    // it would match, but its file has another hash
	ReasonHashUnavailable       Reason = "hash_unavailable" // it would match, but its file's hash is not known
	ReasonHashChanged           Reason = "hash_changed"     // it would match, but another file was first used under its path
	ReasonCustomRule            Reason = "custom_rule"      // a module of the operator's denies it
	ReasonInspectionUnavailable Reason = "inspection_unavailable"
	ReasonPolicyError           Reason = "policy_error" // the engine failed
)

// Reasons of single requests.
const (
	ReasonNoRule       Reason = "no_rule"       // no rule allows it
	ReasonDenyRule     Reason = "deny_rule"     // a rule refuses it
	ReasonEncodedSlash Reason = "encoded_slash" // its path has two readings
)

// Reasons of a policy's reload.
const (
	ReasonPolicyLoaded  Reason = "policy_loaded"  // there is a new generation
	ReasonPolicyRefused Reason = "policy_refused" // the old generation stays
)

// Reasons of the SSH server. The verdict says whether it was let go on.
const (
	ReasonSSHLogin    Reason = "ssh_login"    // somebody proved who they are
	ReasonSSHRefused  Reason = "ssh_refused"  // a login that failed, or a request that is never granted
	ReasonSSHSession  Reason = "ssh_session"  // a shell
	ReasonSSHExec     Reason = "ssh_exec"     // a command line
	ReasonSSHForward  Reason = "ssh_forward"  // a connection to something inside the sandbox
	ReasonSSHTransfer Reason = "ssh_transfer" // a file, in or out
)

// Reasons of the control API: what was asked for, and the verdict says whether it was
// done.
const (
	ReasonAPIRefused      Reason = "api_refused" // the caller may not ask at all
	ReasonAPIExec         Reason = "api_exec"    // a command line
	ReasonSandboxCreated  Reason = "sandbox_created"
	ReasonSandboxUpdated  Reason = "sandbox_updated"
	ReasonSandboxDeleted  Reason = "sandbox_deleted"
	ReasonPolicySet       Reason = "policy_set"
	ReasonProviderChanged Reason = "provider_changed" // made, updated or deleted
)

// Reasons of identity.
const (
	ReasonNoOrigin   Reason = "no_origin"   // accepted, but no hook remembered it
	ReasonNoIdentity Reason = "no_identity" // the exec record is missing
)

// Reasons of addresses, names and the way upstream.
const (
	ReasonUnsafeAddress       Reason = "unsafe_address"      // loopback, link-local, metadata …: always refused
	ReasonPrivateAddress      Reason = "private_address"     // special-purpose, not in allowed_ips
	ReasonPortRefused         Reason = "port_refused"        // a cluster port in the mode without a host
	ReasonUndeclaredName      Reason = "undeclared_name"     // DNS: no policy names it
	ReasonQuestionRefused     Reason = "question_refused"    // DNS: a class or type that is never answered
	ReasonNamePoolExhausted   Reason = "name_pool_exhausted" // DNS: no synthetic address left
	ReasonStaleAddress        Reason = "stale_address"       // synthetic, but stands for no name
	ReasonResolveFailed       Reason = "resolve_failed"
	ReasonUpstreamUnreachable Reason = "upstream_unreachable"
)

// Reasons of the relay.
const (
	ReasonSNIMismatch      Reason = "sni_mismatch"
	ReasonMalformedHello   Reason = "malformed_client_hello"
	ReasonMalformedRequest Reason = "malformed_request"
	ReasonForwardProxy     Reason = "forward_proxy_unavailable"
	ReasonLimit            Reason = "limit" // too many connections at once
	ReasonTimeout          Reason = "timeout"
	ReasonShutdown         Reason = "shutdown"
	ReasonInternal         Reason = "internal_error" // a fault of the agent itself
)

// Reasons of the kernel hooks. Each REJECT_ constant of bpf/types.h has one here,
// or is ReasonNoIdentity.
const (
	ReasonUnknownSandbox Reason = "unknown_sandbox"
	ReasonForeignNetns   Reason = "foreign_netns"
	ReasonSocketType     Reason = "socket_type"
	ReasonUDP            Reason = "udp"
	ReasonUDPConnect     Reason = "udp_connect" // also glibc sorting addresses
	ReasonReservedPort   Reason = "reserved_port"
	ReasonMapFull        Reason = "map_full"
	ReasonAddressFamily  Reason = "address_family"
	ReasonEgress         Reason = "egress" // a packet that no hook let go
)

// TurnsOnHash reports whether a denial may be another answer once the files of the
// program and its ancestors were read.
func (r Reason) TurnsOnHash() bool {
	// Mismatch too: an ancestor's may be the one that matches, and not known yet.
	return r == ReasonHashUnavailable || r == ReasonHashChanged || r == ReasonHashMismatch
}

// Decision is the answer for one identity and one target. It is immutable: a
// cached decision is shared.
type Decision struct {
	Verdict    Verdict
	Engine     Engine
	Policy     string // name of the policy that matched, or came nearest
	Endpoint   string // its endpoint, as a field of the file
	Rule       string // of a request: what in the endpoint allowed or refused it
	Reason     Reason
	Generation uint64
	// Inspect is true where the endpoint asks for its requests to be decided.
	Inspect bool
	// AllowedIPs are the special-purpose addresses that the name may resolve to.
	AllowedIPs []netip.Prefix
	// Hint tells a person what to do about a denial; may be empty.
	Hint string
}

// Denial is the error of a step after the decision that refuses a connection.
type Denial struct {
	Engine Engine
	Reason Reason
	Detail string         // for a person
	Addr   netip.AddrPort // the address it is about; may be invalid
}

// Error returns "reason: detail".
func (d *Denial) Error() string {
	if d.Detail == "" {
		return string(d.Reason)
	}
	return string(d.Reason) + ": " + d.Detail
}
