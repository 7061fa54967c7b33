package flow

import (
	"fmt"
	"slices"
	"strings"
	"unique"
)

// MaxAncestors is how many execs an ancestry remembers, nearest first.
const MaxAncestors = 16

// ExecID names one start of a program image. Both halves come from the kernel
// in the exec hook, so an id is never used twice, even when the pid is.
type ExecID struct {
	TGID uint32 // thread group id in the initial pid namespace
	Time uint64 // nanoseconds since boot (CLOCK_BOOTTIME) at the exec
}

// IsZero reports whether the id names no exec at all.
func (id ExecID) IsZero() bool { return id == ExecID{} }

// String returns the form used in records: "tgid:time".
func (id ExecID) String() string {
	if id.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d:%d", id.TGID, id.Time)
}

// FileID tells one file from every other, and one content of it from the next.
// All fields are the kernel's own (s_dev, not stat's st_dev): compare them only
// with values that the kernel reported in the same way.
type FileID struct {
	Device    uint64
	Inode     uint64
	CtimeSec  int64
	CtimeNsec uint32
	Size      int64 // bytes
}

// Taint is a set of reasons why a program image is not simply the file that its
// path names. By default a tainted image matches no binary of a policy.
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
	// TaintWritable: the sandbox's user can change what stands under the name. No
	// hook reports it: it is found out where a policy names a symbolic link.
	TaintWritable
)

// LiftableTaints are those that a policy may put up with. The others make the
// path itself anybody's, so that nothing could be matched by it.
const LiftableTaints = TaintDeleted | TaintMemfd | TaintFiltered | TaintWritable

var taintNames = []string{"foreign_root", "deleted", "memfd", "no_path", "filtered", "writable"}

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

// Image is one program image that was started: what the kernel saw at exec.
type Image struct {
	Exec   ExecID
	Path   string // relative to the sandbox's root; raw bytes, may be no UTF-8
	File   FileID
	Taints Taint
	// SHA256 of the file, in lower-case hexadecimal digits; empty where it is not known.
	SHA256 string
}

// Exec is one exec as the kernel recorded it. Its ancestors are named only: each
// has a record of its own.
type Exec struct {
	Image
	UID, GID  uint32
	Ancestors []ExecID // nearest first, at most MaxAncestors
}

// Identity says which program made a connection. It is immutable and shared
// between connections of one exec.
type Identity struct {
	Image
	UID, GID  uint32
	Ancestors []Image // nearest first, at most MaxAncestors
	// Key is equal for identities that every decision treats alike (same image
	// and ancestry, whatever the pid). It is what decisions are cached by.
	Key IdentityKey
}

// IdentityKey is a comparable handle for the content of an Identity.
type IdentityKey = unique.Handle[identityContent]

type identityContent struct {
	path      string
	file      FileID
	taints    Taint
	sha256    string
	uid       uint32
	ancestors string
}

// NewIdentity returns the identity of an image and its ancestry.
func NewIdentity(image Image, uid, gid uint32, ancestors []Image) *Identity {
	var chain strings.Builder
	for _, a := range ancestors {
		// A path holds no NUL, so the joined form has one reading only.
		fmt.Fprintf(&chain, "%s\x00%v\x00%d\x00%s\x00", a.Path, a.File, a.Taints, a.SHA256)
	}
	return &Identity{
		Image:     image,
		UID:       uid,
		GID:       gid,
		Ancestors: ancestors,
		Key: unique.Make(identityContent{
			path: image.Path, file: image.File, taints: image.Taints, sha256: image.SHA256,
			uid: uid, ancestors: chain.String(),
		}),
	}
}
