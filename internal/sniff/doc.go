// Package sniff reads the first bytes of a connection within bounds: the
// ClientHello of a TLS client, and the head of a request to the explicit proxy.
//
// A scanner is shown everything that has arrived so far, each time more of it,
// and says one of: more bytes are needed, this is not the protocol, here it is,
// or it is malformed. It never looks at a byte twice to decide the same thing,
// so that a peer that sends one byte a segment costs no more than another.
//
// Both scanners are stricter than the standards, because what they pass on is
// read again by a server that nobody here knows: a form that two readers could
// understand differently is malformed. No connection, deadline or policy may
// come in here, and only the standard library may be imported.
package sniff

import "errors"

// The outcomes of a scan that yield nothing.
var (
	// ErrMore: what arrived so far is the beginning of something.
	ErrMore = errors.New("more bytes are needed")
	// ErrNotTLS: no TLS server would read a ClientHello from these bytes.
	ErrNotTLS = errors.New("not TLS")
	// ErrHello: the bytes claim to be a ClientHello and are not a proper one.
	ErrHello = errors.New("malformed ClientHello")
	// ErrHead: the bytes are not the head of an HTTP/1 request.
	ErrHead = errors.New("malformed request head")
)
