// Package e2e tests the whole program: the real ringfence, real hooks, real
// clients, and an internet of the tests' own whose far end is looked at.
//
// It has no code but tests. What one room can show alone is tested there.
package e2e
