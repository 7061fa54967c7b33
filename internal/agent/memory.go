package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/sandbox"
)

// memory is what an agent knows of a sandbox, and its next one must know at whatever
// instant it was killed: which names its synthetic addresses stand for, and how many rejections
// the records stand for. (Which files its paths were first used with outlives the
// sandbox too, and is the owner's to keep: see SandboxConfig.SaveTrust.)
//
// It is a file without a name, which the sandbox's init holds: so it lives exactly as
// long as the sandbox, and what is written to it outlives the writer without a sync.
// Its first page has the counts, the second the owner's tally, and each is written over
// by one write; the rest is a log of lines, of which a torn last one is as if it were
// not there.
type memory struct {
	mu   sync.Mutex
	file *os.File // the sandbox's
	end  int64
	// tallied is the owner's, see SetTally.
	tallied bool
}

const (
	countsSize = 4 << 10
	headSize   = 2 * countsSize // counts, and the tally
	// maxMemory bounds what a sandbox can make its agent remember.
	maxMemory = 64 << 20
)

// note is one line of a memory.
type note struct {
	Host string `json:"host"`
}

// recollection is what a memory had to say.
type recollection struct {
	hosts  []string
	counts map[flow.Reason]uint64
	tally  Tally
}

var (
	errMemoryFull = errors.New("the agent's memory of this sandbox is full")
	errNoMemory   = errors.New("its init has nothing that the agent before knew of it")
)

// newMemory returns an empty memory, and the file that is to be held.
func newMemory() (*memory, error) {
	fd, err := unix.MemfdCreate("ringfence-memory", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory: %w", err)
	}
	m := &memory{file: os.NewFile(uintptr(fd), "memory"), end: headSize}
	if err := errors.Join(m.setCounts(nil), m.setTally(Tally{})); err != nil {
		return nil, errors.Join(err, m.file.Close())
	}
	return m, nil
}

// recall reads the memory of an agent before. What it says cannot be guessed, so a
// sandbox without is lost.
func recall(file *os.File) (*memory, *recollection, error) {
	if file == nil {
		return nil, nil, fmt.Errorf("%w: %w", sandbox.ErrLost, errNoMemory)
	}
	text, err := io.ReadAll(io.NewSectionReader(file, 0, maxMemory+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read memory: %w", err)
	}
	lost := func(why error) error { return fmt.Errorf("read memory: %w: %w", sandbox.ErrLost, why) }
	if len(text) < headSize || len(text) > maxMemory {
		return nil, nil, lost(fmt.Errorf("it has %d bytes", len(text)))
	}
	r := &recollection{}
	if err := json.Unmarshal(text[:countsSize], &r.counts); err != nil {
		return nil, nil, lost(err)
	}
	r.tally = Tally{binary.NativeEndian.Uint64(text[countsSize:]), binary.NativeEndian.Uint64(text[countsSize+8:])}
	text = text[headSize:]
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	for line := range bytes.Lines(text) {
		var n note
		if err := json.Unmarshal(line, &n); err != nil {
			return nil, nil, lost(err)
		}
		r.hosts = append(r.hosts, n.Host)
	}
	m := &memory{file: file, tallied: true, end: headSize + int64(len(text))}
	if err := file.Truncate(m.end); err != nil {
		return nil, nil, fmt.Errorf("read memory: %w", err)
	}
	return m, r, nil
}

// add remembers a note before it returns.
func (m *memory) add(n note) error {
	text, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode note: %w", err)
	}
	text = append(text, '\n')
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.end+int64(len(text)) > maxMemory {
		return errMemoryFull
	}
	if _, err := m.file.WriteAt(text, m.end); err != nil {
		return fmt.Errorf("write memory: %w", err)
	}
	m.end += int64(len(text))
	return nil
}

func (m *memory) addHost(host string) error { return m.add(note{Host: host}) }

// Tally is what the owner of a sandbox has counted of its records.
type Tally struct{ Allowed, Denied uint64 }

// setTally remembers the owner's tally.
func (m *memory) setTally(t Tally) error {
	page := make([]byte, countsSize)
	binary.NativeEndian.PutUint64(page, t.Allowed)
	binary.NativeEndian.PutUint64(page[8:], t.Denied)
	if m.tallied { // the page is there: a few bytes within it do
		page = page[:16]
	}
	if _, err := m.file.WriteAt(page, countsSize); err != nil {
		return fmt.Errorf("write tally: %w", err)
	}
	m.tallied = true
	return nil
}

// setCounts remembers how many rejections were told.
func (m *memory) setCounts(counts map[flow.Reason]uint64) error { return writeCounts(m.file, counts) }

// writeCounts writes the page of counts. A write within one page is whole or not at all.
func writeCounts(file *os.File, counts map[flow.Reason]uint64) error {
	if counts == nil {
		counts = map[flow.Reason]uint64{}
	}
	text, err := json.Marshal(counts)
	if err == nil && len(text) > countsSize {
		err = errMemoryFull
	}
	if err != nil {
		return fmt.Errorf("write counts: %w", err)
	}
	page := bytes.Repeat([]byte{' '}, countsSize)
	copy(page, text)
	if _, err := file.WriteAt(page, 0); err != nil {
		return fmt.Errorf("write counts: %w", err)
	}
	return nil
}

// readCounts returns what writeCounts has written; nothing where it cannot be read, so
// that it is told again.
func readCounts(file *os.File) (counts map[flow.Reason]uint64) {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, countsSize))
	if err != nil || json.Unmarshal(text, &counts) != nil {
		return nil
	}
	return counts
}

// told is how many rejections, of each reason, the records stand for so far. The
// hooks count all and tell some: a line stands for those since the last.
type told struct {
	// keep remembers the counts for the next agent, nil where there is none. It comes
	// before a record is emitted: of one that is killed in between, the hooks' counters
	// tell more than the records, and nothing is told twice.
	keep func(map[flow.Reason]uint64) error

	mu     sync.Mutex
	counts map[flow.Reason]uint64
}

// recall sets what another agent has told.
func (t *told) recall(counts map[flow.Reason]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts = maps.Clone(counts)
}

// upTo returns for how many rejections a line stands that is written when the hooks
// have counted so many; 0: for none, as others stand for it. Two CPUs may tell in
// another order than they counted, and one may tell late what a final line has.
func (t *told) upTo(reason flow.Reason, count uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.counts[reason]
	if count <= before {
		return 0
	}
	if t.counts == nil {
		t.counts = make(map[flow.Reason]uint64)
	}
	t.counts[reason] = count
	if t.keep != nil {
		_ = t.keep(t.counts) // else the next agent tells it again
	}
	return count - before
}
