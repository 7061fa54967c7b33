// Package identity turns the id of an exec into the identity that a policy
// judges: the program image, who runs it, and the execs before it.
//
// All it knows comes from the kernel's exec records. It never opens /proc of a
// sandboxed process, so that nothing here depends on the process being alive.
package identity

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/ringfence/ringfence/internal/flow"
)

// ExecTable reads the kernel's exec records.
type ExecTable interface {
	ReadExec(flow.ExecID) (flow.Exec, error)
	DropExec(flow.ExecID) error
}

// DefaultSize is how many identities of a sandbox are kept.
const DefaultSize = 4096

// Table keeps the identities of one sandbox. Ids are never reused, so an entry
// is right for ever, and the bound is the only reason to forget one.
type Table struct {
	execs      ExecTable
	identities *lru.Cache[flow.ExecID, *flow.Identity]
	// images has the ancestors, which many identities share.
	images *lru.Cache[flow.ExecID, flow.Image]
}

// NewTable returns a table that keeps at most size identities.
func NewTable(execs ExecTable, size int) (*Table, error) {
	identities, err := lru.New[flow.ExecID, *flow.Identity](size)
	if err != nil {
		return nil, fmt.Errorf("make identity table: %w", err)
	}
	images, err := lru.New[flow.ExecID, flow.Image](size)
	if err != nil {
		return nil, fmt.Errorf("make image table: %w", err)
	}
	return &Table{execs: execs, identities: identities, images: images}, nil
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
	if identity, ok := t.identities.Get(id); ok {
		return identity, nil
	}
	exec, err := t.execs.ReadExec(id)
	if err != nil {
		return nil, fmt.Errorf("identify exec: %w", err)
	}
	identity := flow.NewIdentity(exec.Image, exec.UID, exec.GID, t.ancestors(exec.Ancestors))
	t.identities.Add(id, identity)
	return identity, nil
}

// ancestors reads the images of an ancestry. One that cannot be read ends it:
// an ancestor can only make a policy match, so leaving some out is safe.
func (t *Table) ancestors(ids []flow.ExecID) []flow.Image {
	images := make([]flow.Image, 0, len(ids))
	for _, id := range ids {
		image, ok := t.images.Get(id)
		if !ok {
			exec, err := t.execs.ReadExec(id)
			if err != nil {
				return images
			}
			image = exec.Image
			t.images.Add(id, image)
		}
		images = append(images, image)
	}
	return images
}
