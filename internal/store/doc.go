// Package store keeps what an agent must know again after it was killed at any
// instant: bytes under keys, in buckets, in one file. What a write has returned from is
// there for good; what it has not is there as a whole or not at all.
//
// The file is looked at as a whole before it is used. Every page, every value and the
// number of them is checked, for the library underneath trusts what it reads: a broken
// file would panic, fault, loop or tell less than there was. A file that is broken is
// refused and left as it is: what to do with it is the operator's to say.
//
// Secrets are sealed with a key that lies beside the file and that only root reads.
// That keeps them out of a copy or a backup of the file, and from being exchanged; it
// does not keep them from root.
//
// What the bytes mean is decided elsewhere. There is one writer, and one agent.
package store
