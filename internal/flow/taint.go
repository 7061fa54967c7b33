package flow

import (
	"fmt"
	"slices"
)

// Taint is a set of reasons why a program image is not simply the file that its
// path names. A tainted image matches no binary of a policy that does not put up
// with the taint; those of NotedTaints are only told.
type Taint uint32

// The taints, in the order in which records list them. The bits are the ABI
// shared with the kernel side (bpf/types.h).
const (
	// TaintForeignRoot: the path was taken in another root, mount or user
	// namespace than the sandbox's, so that it can be forged. Never matches.
	TaintForeignRoot Taint = 1 << iota
	// TaintDeleted: the file had no name left when it was executed.
	TaintDeleted
	// TaintMemfd: the image came from memory, not from a file system.
	TaintMemfd
	// TaintNoPath: the path could not be told (unreachable, or over 4096 bytes).
	TaintNoPath
	// TaintFiltered: it started under a seccomp filter that the sandbox added, which
	// may answer for the kernel: its sockets are then not what it takes them for.
	TaintFiltered
	// TaintWritable: the program's user could change the file, or what stands at its
	// path: by a directory above, or by a symbolic link that a policy names.
	TaintWritable
	// TaintLoader: the image is a dynamic loader, which runs the program that its
	// arguments name.
	TaintLoader
	// TaintPreload: its environment has variables that put other code into programs.
	TaintPreload
	// TaintSetuid: the file has a set-user-id or set-group-id bit. In a sandbox it
	// has no effect.
	TaintSetuid
	// TaintScript: it is the interpreter of a script that was executed.
	TaintScript
	// TaintChanged: another file than the one that was first used under this path,
	// and not known to have the same content.
	TaintChanged
)

const (
	// LiftableTaints are those that a policy may put up with. The others make the
	// path itself anybody's, so that nothing could be matched by it.
	LiftableTaints = TaintDeleted | TaintMemfd | TaintFiltered | TaintWritable | TaintLoader | TaintPreload | TaintChanged
	// NotedTaints are told, and keep nothing from matching: the one has no effect in a
	// sandbox, and the other an interpreter does as well when it is given a file.
	NotedTaints = TaintSetuid | TaintScript
)

var taintNames = []string{
	"foreign_root", "deleted", "memfd", "no_path", "filtered", "writable",
	"loader", "preload", "setuid", "script", "changed",
}

// TaintNames returns the names of all taints.
func TaintNames() []string { return slices.Clone(taintNames) }

// ParseTaint returns the taint of a name.
func ParseTaint(name string) (t Taint, ok bool) {
	for i, known := range taintNames {
		if name == known {
			return 1 << i, true
		}
	}
	return 0, false
}

// Liftable reports whether a policy may put up with every taint that is set.
func (t Taint) Liftable() bool { return t&^LiftableTaints == 0 }

// Has reports whether every bit of want is set.
func (t Taint) Has(want Taint) bool { return t&want == want }

// Names returns the names of the taints that are set; nil for none.
func (t Taint) Names() []string {
	var names []string
	for i, name := range taintNames {
		if t&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	// A bit that this build does not know still taints.
	if rest := t >> len(taintNames); rest != 0 {
		names = append(names, fmt.Sprintf("unknown_%#x", uint32(rest)<<len(taintNames)))
	}
	return names
}
