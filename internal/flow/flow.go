// Package flow is the vocabulary of Ringfence: the values that one connection
// becomes on its way from a kernel hook to a record.
//
// The way is ExecID and Origin (from the kernel), Identity, Target, Decision,
// Record. Every other package speaks these types and hands them on in that
// order. Nothing but types, their text forms and their canonicalisation may
// come in here, and only the standard library may be imported.
//
// The zero value of each type is the safe one: a zero Verdict denies, a zero
// ExecID names no program, a zero Target matches no endpoint.
package flow
