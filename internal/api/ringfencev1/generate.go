// Package ringfencev1 is the control API as protoc generates it from the files in
// internal/api/proto: messages, clients and the interfaces of the servers. Nothing
// in it is written by hand.
package ringfencev1

//go:generate ../../../scripts/protoc
