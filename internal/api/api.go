// Package api is the control API: gRPC on a Unix socket, its limits, its errors,
// and the client's side of it.
//
// It checks what comes in before anything is done, and turns errors into codes with
// a hint. What the calls do is done by whoever implements the services; nothing
// here knows of a sandbox.
package api
