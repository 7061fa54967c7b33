package daemon

import (
	"slices"
	"strings"
	"sync"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/sandbox"
)

// fleet is every sandbox of the service by name.
type fleet struct {
	mu      sync.RWMutex // read for every record
	boxes   map[string]*box
	numbers map[uint32]bool // of users that belong to sandboxes
	changed chan struct{}   // closed and replaced at each change
}

func newFleet() *fleet {
	return &fleet{boxes: map[string]*box{}, numbers: map[uint32]bool{}, changed: make(chan struct{})}
}

// box is one sandbox: what its creator asked for, and what runs.
type box struct {
	name string
	// turn is held by whoever makes, changes or deletes the sandbox: one at a time.
	turn sync.Mutex

	// begun and over are closed when the first attached command begins and ends.
	begun, over        chan struct{}
	beginOnce, endOnce sync.Once

	// The fields below are guarded by the fleet's mu. What they point to never changes:
	// it is replaced.
	message *pb.Sandbox
	life    *life // nil while nothing runs
	saved   saved
	counts  counts
}

// life is a sandbox that runs.
type life struct {
	*agent.Sandbox
	engine *policy.Engine
	user   launch.User
	// endpoint is the control plane as its programs are told of it; empty for none.
	endpoint string
	ending   chan struct{} // closed when the end begins
}

// saved is what is kept of a sandbox beside its message.
type saved struct {
	Sandbox []byte         `json:"sandbox"` // ringfence.v1.Sandbox
	State   *sandbox.State `json:"state,omitempty"`
	Number  uint32         `json:"number"` // of the user that belongs to the sandbox
	// User is whom what runs was started as: a policy that was set since may name
	// another, whom this host need not have.
	User *launch.User `json:"user,omitempty"`
	// Revision is the policy's in force; Latest the newest, which may have failed.
	Revision uint64 `json:"revision"`
	Latest   uint64 `json:"latest"`
}

func newBox(message *pb.Sandbox) *box {
	return &box{name: message.GetName(), message: message, begun: make(chan struct{}), over: make(chan struct{})}
}

// attach says that an attached command begins; what it returns, that it has ended.
func (b *box) attach() (end func()) {
	b.beginOnce.Do(func() { close(b.begun) })
	return func() { b.endOnce.Do(func() { close(b.over) }) }
}

// claim enters a new sandbox under its name, and has its turn; false where there is one
// already.
func (f *fleet) claim(message *pb.Sandbox) (*box, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes[message.GetName()] != nil {
		return nil, false
	}
	number := uint32(0)
	for f.numbers[number] {
		number++
	}
	b := newBox(message)
	b.saved.Number = number
	b.turn.Lock() // nobody else knows it yet
	f.enter(b)
	return b, true
}

// enter puts a box in. The caller holds mu, or nobody else is there yet.
func (f *fleet) enter(b *box) {
	f.boxes[b.name] = b
	f.numbers[b.saved.Number] = true
	f.tell()
}

// remove takes a sandbox out.
func (f *fleet) remove(b *box) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes[b.name] != b {
		return
	}
	delete(f.boxes, b.name)
	delete(f.numbers, b.saved.Number)
	f.tell()
}

// tell wakes who waits for a change. The caller holds mu.
func (f *fleet) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// change replaces what a box has. Its message is a copy that edit may write to.
func (f *fleet) change(b *box, edit func(*box, *pb.Sandbox)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := api.Clone(b.message)
	if next.Status == nil {
		next.Status = &pb.SandboxStatus{}
	}
	edit(b, next)
	next.Version++
	b.message = next
	f.tell()
}

// find returns a box, or nil.
func (f *fleet) find(name string) *box {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.boxes[name]
}

// look returns what a box has now.
func (f *fleet) look(b *box) (*pb.Sandbox, *life, saved) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return b.message, b.life, b.saved
}

// all returns the boxes in the order of their names, and what is closed at the next
// change.
func (f *fleet) all() ([]*box, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	boxes := make([]*box, 0, len(f.boxes))
	for _, b := range f.boxes {
		boxes = append(boxes, b)
	}
	slices.SortFunc(boxes, func(a, b *box) int { return strings.Compare(a.name, b.name) })
	return boxes, f.changed
}

func (f *fleet) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.boxes)
}
