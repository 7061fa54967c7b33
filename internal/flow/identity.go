package flow

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
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
	// FSMagic and Granularity say of the file system which one it is (statfs's f_type),
	// and how fine its times are, in nanoseconds.
	FSMagic, Granularity uint32
}

// The file systems of which it is known that nobody changes a file's content without
// changing its FileID.
const (
	magicExt4 = 0xEF53 // and ext2, ext3, by the same code
	magicXFS  = 0x58465342
)

// Traced reports whether every change of the file's content, by whoever may write
// it, changes its FileID. On tmpfs and overlayfs a write through a mapping leaves the
// times alone, btrfs has one inode number in several subvolumes, and times of a whole
// second hide what follows within it.
func (f FileID) Traced() bool {
	return (f.FSMagic == magicExt4 || f.FSMagic == magicXFS) && f.Granularity < 1_000_000
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
	// Racy: it started so soon after the last change of its file that another one may
	// have followed under the same time, so that no hash says what ran.
	Racy bool
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

// IdentityKey stands for the content of an Identity: two are equal where the
// contents are. It is a digest, for what a sandbox makes long would else be kept with
// every decision.
type IdentityKey [sha256.Size]byte

// NewIdentity returns the identity of an image and its ancestry.
func NewIdentity(image Image, uid, gid uint32, ancestors []Image) *Identity {
	h := sha256.New()
	writeNumbers(h, uint64(uid))
	image.digest(h)
	for i := range ancestors {
		ancestors[i].digest(h)
	}
	id := &Identity{Image: image, UID: uid, GID: gid, Ancestors: ancestors}
	h.Sum(id.Key[:0])
	return id
}

// digest writes what a decision may look at, so that it has one reading: each text
// comes with its length.
func (i *Image) digest(h hash.Hash) {
	writeNumbers(h, uint64(len(i.Path)))
	_, _ = h.Write([]byte(i.Path))
	writeNumbers(h, uint64(len(i.SHA256)))
	_, _ = h.Write([]byte(i.SHA256))
	f := i.File
	writeNumbers(h, f.Device, f.Inode, uint64(f.CtimeSec), uint64(f.CtimeNsec), uint64(f.Size), uint64(f.FSMagic),
		uint64(f.Granularity), uint64(i.Taints))
}

func writeNumbers(h hash.Hash, numbers ...uint64) {
	var buf [8]byte
	for _, n := range numbers {
		binary.LittleEndian.PutUint64(buf[:], n)
		_, _ = h.Write(buf[:])
	}
}
