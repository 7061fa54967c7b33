// Package testenv is the fixture that kernel tests, benchmarks and the demo
// stand on: two network namespaces joined by a veth pair.
//
//	host       203.0.113.1 and 2001:db8:1::1; the agent under test runs here,
//	           so that it touches nothing of the machine
//	internet   every other address there is
//
// In the internet namespace every address that is not the host's is local, also
// the private, link-local and metadata ones: whatever escapes, wherever it was
// sent to, arrives there, and the witness sees it. It runs a DNS server, HTTP
// and HTTPS with a CA of its own, a git server, a service that speaks first and
// echo services, all on every address. Nothing leaves the two namespaces.
//
// Start is the core and knows no testing package; New wraps it for tests. Only
// tests and the demo import this package, and it imports no room but netns.
//
// An Env lives in descriptors of its process: when that is killed, the kernel
// removes the namespaces, and the next Start removes the one directory that is
// left.
package testenv
