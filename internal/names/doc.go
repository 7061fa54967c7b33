// Package names owns every name and address of a sandbox's connections.
//
// Inside, a DNS server answers for the names that the policy declares, and only
// with synthetic addresses, so that the name behind a captured connection is
// never a guess (Pool, Server). Outside, after a connection was allowed, its name
// is looked up once, every address is judged by its class, and exactly the
// judged addresses are dialled (Resolver, flow.ClassOf, Dialer).
//
// The two halves share no data: nothing that a sandbox asks is ever forwarded.
// What is declared or allowed is decided elsewhere; no policy may come in here.
package names
