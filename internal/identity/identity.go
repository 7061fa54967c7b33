// Package identity turns the id of an exec into the identity that a policy
// judges: the program image, who runs it, and the execs before it.
//
// What ran comes from the kernel's exec records. What is in the file comes from
// the file itself, opened in the sandbox's root, and counts only where the kernel
// says that it is the file that ran. Nothing here opens /proc of a sandboxed
// process, or depends on the process being alive.
//
// No file is read on the way of a connection, unless its decision turns on what is
// in there. The first file that is used under a path is trusted, whatever is in it;
// meanwhile it is read in the background. Only a file that takes its place, or one
// whose hash a policy writes, has to be known before it may connect: see Await.
package identity

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/ringfence/ringfence/internal/flow"
)

// ExecTable reads the kernel's exec records.
type ExecTable interface {
	ReadExec(flow.ExecID) (flow.Exec, error)
	DropExec(flow.ExecID) error
}

// DefaultSize is how many identities of a sandbox are kept.
const DefaultSize = 4096

// maxTableBytes bounds the paths that a sandbox's identities hold, which it makes
// as long as it likes.
const maxTableBytes = 8 << 20

// Config wires one sandbox's table.
type Config struct {
	Execs ExecTable
	// Files are those of the sandbox, and Hashes what is known of any sandbox's.
	Files  Files
	Hashes *Hashes
	// Named reports whether a binary of the policy in force may match a path. Only
	// such images are read and remembered.
	Named func(path string) bool
	// Size is how many identities are kept; 0 means DefaultSize.
	Size int
	// Trusted is what a table before this one was told to Remember, in that order.
	Trusted []Trusted
	// Remember is told of what a table of the same sandbox must know after this one.
	// With an error a file is not trusted that is used first. Nil: there is none.
	Remember func(Trusted) error
}

// Table keeps the identities of one sandbox. Ids are never reused, so what ran is
// right for ever, and the bound is the only reason to forget it.
type Table struct {
	execs      ExecTable
	named      func(string) bool
	identities *bounded[flow.ExecID, known]
	// images has the ancestors, which many identities share.
	images *bounded[flow.ExecID, flow.Image]
	trust  *trust
	reader *reader
	// round counts what may change the judgement of an image: hashes that came in,
	// another policy, a word of the operator's.
	round atomic.Uint64
}

// known is an identity as it was judged in a round.
type known struct {
	identity *flow.Identity
	round    uint64
}

// NewTable returns an empty table. Files are read while Run runs.
func NewTable(cfg Config) (*Table, error) {
	if cfg.Size == 0 {
		cfg.Size = DefaultSize
	}
	identities, err := newBounded[flow.ExecID, known](cfg.Size, maxTableBytes)
	if err != nil {
		return nil, fmt.Errorf("make identity table: %w", err)
	}
	images, err := newBounded[flow.ExecID, flow.Image](cfg.Size, maxTableBytes)
	if err != nil {
		return nil, fmt.Errorf("make image table: %w", err)
	}
	t := &Table{
		execs: cfg.Execs, named: cfg.Named, identities: identities, images: images,
		trust: newTrust(cfg.Trusted, cfg.Remember), reader: newReader(cfg.Files, cfg.Hashes),
	}
	return t, nil
}

// Run reads files in the background, one at a time, until the context ends.
func (t *Table) Run(ctx context.Context) error {
	t.reader.run(ctx, t.Outdate)
	return nil
}

// Identify returns the identity of the exec that came with an origin, and gives
// back the origin's use of the exec record: call it once for each origin.
func (t *Table) Identify(id flow.ExecID) (*flow.Identity, error) {
	// Read first, drop last: the record may go with the origin's use of it. A
	// drop that fails leaves a record behind, which its sandbox's end removes.
	defer func() { _ = t.execs.DropExec(id) }()
	return t.Lookup(id)
}

// Lookup returns the identity of an exec without giving anything back. The exec
// may have ended meanwhile: then it is only known if it was seen before.
func (t *Table) Lookup(id flow.ExecID) (*flow.Identity, error) {
	round := t.round.Load() // before the judgement, so that one of an older round is not kept as newer
	if k, ok := t.identities.get(id); ok {
		if k.round == round {
			return k.identity, nil
		}
		identity := t.Renew(k.identity)
		t.identities.add(id, known{identity, round}, cost(identity))
		return identity, nil
	}
	exec, err := t.readExec(id)
	if err != nil {
		return nil, fmt.Errorf("identify exec: %w", err)
	}
	ancestors := t.ancestors(exec.Ancestors)
	for i := range ancestors {
		ancestors[i] = t.judge(ancestors[i])
	}
	identity := flow.NewIdentity(t.judge(exec.Image), exec.UID, exec.GID, ancestors)
	// Its start was announced, unless the policy did not name it then.
	t.wantHash(identity.Image, false)
	t.identities.add(id, known{identity, round}, cost(identity))
	return identity, nil
}

// readExec reads an exec record. Whether its image is racy is judged now, once: the
// clock may be set later.
func (t *Table) readExec(id flow.ExecID) (flow.Exec, error) {
	exec, err := t.execs.ReadExec(id)
	exec.Racy = racy(exec.Image)
	return exec, err
}

// ancestors reads the images of an ancestry. One that cannot be read ends it:
// an ancestor can only make a policy match, so leaving some out is safe.
func (t *Table) ancestors(ids []flow.ExecID) []flow.Image {
	images := make([]flow.Image, 0, len(ids))
	for _, id := range ids {
		image, ok := t.images.get(id)
		if !ok {
			exec, err := t.readExec(id)
			if err != nil {
				return images
			}
			image = exec.Image
			t.images.add(id, image, len(image.Path))
		}
		images = append(images, image)
	}
	return images
}

// Started is told of an exec soon after it began, so that its file is read before
// anybody asks. It does not wait.
func (t *Table) Started(id flow.ExecID) {
	exec, err := t.readExec(id)
	if err != nil || !t.readable(exec.Image) {
		return // gone, or of no interest
	}
	t.wantHash(t.judge(exec.Image), false)
}

// wantHash has an image's file read where its hash is not known.
func (t *Table) wantHash(image flow.Image, urgent bool) <-chan struct{} {
	if image.SHA256 != "" || !t.readable(image) {
		return nil
	}
	return t.reader.want(image, urgent)
}

// Outdate has every image judged anew, because something is known that was not.
func (t *Table) Outdate() { t.round.Add(1) }

// Accept forgets what was used under a path so far: the operator has changed the
// file, and what is used next is trusted.
func (t *Table) Accept(path string) error {
	defer t.Outdate()
	return t.trust.forget(path)
}

// Renew returns an identity as it is judged now.
func (t *Table) Renew(id *flow.Identity) *flow.Identity {
	image, ancestors := t.judge(id.Image), slices.Clone(id.Ancestors)
	same := image == id.Image
	for i := range ancestors {
		ancestors[i] = t.judge(ancestors[i])
		same = same && ancestors[i] == id.Ancestors[i]
	}
	if same {
		return id
	}
	return flow.NewIdentity(image, id.UID, id.GID, ancestors)
}

// Await waits until the files of an identity and its ancestors were read, as far as
// a policy may name them, and returns the identity as it is judged then. It ends
// with the context, and does not wait for what there is no room to read.
func (t *Table) Await(ctx context.Context, id *flow.Identity) *flow.Identity {
	for _, image := range append([]flow.Image{id.Image}, id.Ancestors...) {
		if read := t.wantHash(image, true); read != nil {
			select {
			case <-read:
			case <-ctx.Done():
				return t.Renew(id)
			}
		}
	}
	return t.Renew(id)
}

// judge says what is known of an image's file: its hash, and whether it is the one
// that belongs to its path.
func (t *Table) judge(image flow.Image) flow.Image {
	image.Taints &^= flow.TaintChanged
	if !t.readable(image) {
		image.SHA256 = ""
		return image
	}
	hashes := t.reader.hashes
	hashable := hashes.judgeable(image) && !image.Racy
	// What was found once is that of this exec, also where the store forgot it.
	if image.SHA256 == "" && hashable {
		image.SHA256 = hashes.of(image.File)
	}
	if !t.trust.accepts(image, hashable, hashes) {
		image.Taints |= flow.TaintChanged
	}
	return image
}

// unplaced are the taints of images whose path does not lead to them.
const unplaced = flow.TaintForeignRoot | flow.TaintNoPath | flow.TaintMemfd | flow.TaintDeleted

// readable reports whether an image's file can be found, and may matter.
func (t *Table) readable(image flow.Image) bool {
	return image.Taints&unplaced == 0 && t.named(image.Path)
}

// cost is what an identity holds, in bytes of paths.
func cost(id *flow.Identity) int {
	n := len(id.Path)
	for _, a := range id.Ancestors {
		n += len(a.Path)
	}
	return n
}
