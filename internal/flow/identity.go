package flow

import (
	"fmt"
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

// Image is one program image that was started: what the kernel saw at exec.
type Image struct {
	Exec   ExecID
	Path   string // relative to the sandbox's root; raw bytes, may be no UTF-8
	File   FileID
	Taints Taint
	// Preload are the variables in its environment that put other code into programs.
	Preload Variables
	// Script is what was executed where the image is a script's interpreter, as it was
	// named to execve and cut to 127 bytes: a claim, of which nothing depends.
	Script string
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
