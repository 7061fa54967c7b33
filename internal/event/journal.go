package event

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/ringfence/ringfence/internal/flow"
)

// Bounds of a journal, where its configuration names none.
const (
	DefaultJournalRecords = 100_000
	DefaultJournalBytes   = 64 << 20
	DefaultFollowers      = 64
)

// MaxPage is how many records a page has at most.
const MaxPage = 1000

// inwardShare is of which part of the bounds records are kept that are of no way out.
const inwardShare = 8

// lookAtOnce is how many records are taken out at a time, so that Emit waits for no
// more than that.
const lookAtOnce = 512

// ErrFollowers: as many follow the journal as may.
var ErrFollowers = errors.New("too many follow the records")

// JournalConfig says what a journal keeps.
type JournalConfig struct {
	// Records and Bytes bound what is kept of connections, and what they hold; 0 is
	// DefaultJournalRecords and DefaultJournalBytes. Of what people do to sandboxes an
	// eighth of that is kept besides.
	Records, Bytes int
	Followers      int // at once; 0 is DefaultFollowers
	// File is where every record is written as well; without a path, nowhere.
	File FileConfig
	// Report is told when records cannot be written, at most once a minute; may be nil.
	Report func(error)
}

// Entry is a record in its place.
type Entry struct {
	Cursor Cursor // of this record: what comes after it is next
	Record *flow.Record
	// Lost is, for one who follows, how many records before this one he was too slow
	// for. It is not known whether they were such as he asked for.
	Lost uint64
	// Restarted: the journal began anew since the cursor that was resumed at, and what
	// it had held is not there any more.
	Restarted bool
}

// Page is a part of an answer.
type Page struct {
	Entries []Entry // the oldest first
	// Next is the token of the page after this one; empty where there is none.
	Next string
}

// Journal keeps the last records in memory for those who ask, and writes all of them
// to a file where it is given one. It is a sink: Emit waits for no reader and no disk.
//
// There is one journal for all sandboxes, so one that makes many records pushes out
// those of the others: what must be kept is for the file. But it does not push out what
// people did: that is kept apart.
type Journal struct {
	cfg   JournalConfig
	epoch uint64
	file  *rotating // nil without
	out   *Writer   // likewise

	mu              sync.Mutex
	outward, inward *ring
	next            uint64 // the number of the next record, of whichever ring
	followers       int
	wake            chan struct{} // closed by the next Emit; nil while nobody waits
}

// NewJournal returns an empty journal. Close ends it.
func NewJournal(cfg JournalConfig) (*Journal, error) {
	if cfg.Records <= 0 {
		cfg.Records = DefaultJournalRecords
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = DefaultJournalBytes
	}
	if cfg.Followers <= 0 {
		cfg.Followers = DefaultFollowers
	}
	var epoch [8]byte
	_, _ = rand.Read(epoch[:]) // which cannot fail
	// The number 0 is no record's, so that a cursor's zero value stands for none.
	j := &Journal{
		cfg: cfg, epoch: binary.LittleEndian.Uint64(epoch[:]) | 1, next: 1,
		outward: newRing(cfg.Records, cfg.Bytes),
		inward:  newRing(1+cfg.Records/inwardShare, 1+cfg.Bytes/inwardShare),
	}
	if cfg.File.Path == "" {
		return j, nil
	}
	var err error
	if j.file, err = openRotating(cfg.File); err != nil {
		return nil, err
	}
	j.out = NewWriter(WriterConfig{Out: j.file, Report: cfg.Report, ReportAgain: reportAgain})
	return j, nil
}

// Emit keeps the record, and lets go of the oldest of its kind where there is no room.
func (j *Journal) Emit(r *flow.Record) {
	if j.out != nil {
		j.out.Emit(r)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.Mode.Outward() {
		j.outward.add(j.next, r)
	} else {
		j.inward.add(j.next, r)
	}
	j.next++
	if j.wake != nil {
		close(j.wake)
		j.wake = nil
	}
}

// Query returns the records that the filter lets through, the oldest first and at
// most limit of them; 0 is MaxPage, which is the most. A token is that of an earlier
// page, or empty; what was let go of meanwhile is left out. An error is a *TokenError.
func (j *Journal) Query(f Filter, limit int, token string) (Page, error) {
	if limit <= 0 || limit > MaxPage {
		limit = MaxPage
	}
	var from Cursor
	if token != "" {
		var err error
		if from, err = ParseCursor(token); err != nil {
			return Page{}, err
		}
	}
	var page Page
	number, end := j.position(from)
	for number < end {
		seen := j.after(number, end)
		if len(seen) == 0 {
			break
		}
		for _, k := range seen {
			if !f.Match(k.record) {
				continue
			}
			if len(page.Entries) == limit {
				page.Next = Cursor{j.epoch, k.number - 1}.String()
				return page, nil
			}
			page.Entries = append(page.Entries, Entry{Cursor: Cursor{j.epoch, k.number}, Record: k.record})
		}
		number = seen[len(seen)-1].number + 1
	}
	return page, nil
}

// Last returns the newest records that the filter lets through, at most limit of
// them, the oldest first; and where to follow from to miss none.
func (j *Journal) Last(f Filter, limit int) ([]Entry, Cursor) {
	_, end := j.position(Cursor{})
	var entries []Entry // the newest first
	for at := end; len(entries) < limit; {
		seen := j.before(at)
		if len(seen) == 0 {
			break
		}
		for _, k := range slices.Backward(seen) {
			if len(entries) < limit && f.Match(k.record) {
				entries = append(entries, Entry{Cursor: Cursor{j.epoch, k.number}, Record: k.record})
			}
		}
		at = seen[0].number
	}
	slices.Reverse(entries)
	return entries, Cursor{j.epoch, end - 1}
}

// position returns the number after a cursor's, and the one of the next record. After
// another journal's comes the first there was.
func (j *Journal) position(c Cursor) (number, end uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if c.Epoch == j.epoch && c.Number < j.next {
		return c.Number + 1, j.next
	}
	return 1, j.next
}

// after returns the first records that are kept from a number on, up to but without
// end.
func (j *Journal) after(number, end uint64) []kept {
	j.mu.Lock()
	out, in := j.outward.after(number, lookAtOnce), j.inward.after(number, lookAtOnce)
	j.mu.Unlock()
	seen := merge(out, in)
	seen = seen[:min(lookAtOnce, len(seen))] // of what comes after, some may not be seen
	for len(seen) > 0 && seen[len(seen)-1].number >= end {
		seen = seen[:len(seen)-1]
	}
	return seen
}

// before returns the last records that are kept below a number.
func (j *Journal) before(number uint64) []kept {
	j.mu.Lock()
	out, in := j.outward.before(number, lookAtOnce), j.inward.before(number, lookAtOnce)
	j.mu.Unlock()
	seen := merge(out, in)
	return seen[len(seen)-min(lookAtOnce, len(seen)):]
}

// merge returns the records of both by their numbers.
func merge(out, in []kept) []kept {
	if len(in) == 0 {
		return out
	}
	all := append(out, in...) //nolint:gocritic // it is given away
	slices.SortFunc(all, func(a, b kept) int { return cmp.Compare(a.number, b.number) })
	return all
}

// Tail follows the records that the filter lets through: those after a cursor, or,
// with the zero Cursor, those to come. Close it.
func (j *Journal) Tail(f Filter, from Cursor) (*Tail, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.followers >= j.cfg.Followers {
		return nil, fmt.Errorf("%w: %d", ErrFollowers, j.followers)
	}
	j.followers++
	t := &Tail{journal: j, filter: f, next: j.next}
	switch {
	case from.Epoch == j.epoch && from.Number < j.next:
		t.next = from.Number + 1
	case from != Cursor{}: // of another journal's, or of a record that there never was
		t.next, t.restarted = 1, true
	}
	return t, nil
}

// Made returns how many records there were since the journal began.
func (j *Journal) Made() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next - 1
}

// Lost returns how many records were not written to the file.
func (j *Journal) Lost() uint64 {
	if j.out == nil {
		return 0
	}
	return j.out.Lost()
}

// Close writes what waits for the file, and closes it. What is kept can still be
// asked for.
func (j *Journal) Close(ctx context.Context) error {
	if j.out == nil {
		return nil
	}
	if err := j.out.Close(ctx); err != nil {
		return err // its goroutine is at the file still
	}
	return j.file.Close()
}

// Tail is one who follows a journal. He takes records from what it keeps, so that a
// slow one costs neither memory nor time of anybody else's: he loses them. A Tail is
// for one goroutine.
type Tail struct {
	journal *Journal
	filter  Filter
	next    uint64
	// lost and restarted go with the next entry.
	lost      uint64
	restarted bool

	seen []kept // taken out, and not yet looked at

	once sync.Once
}

// Next waits for the next record. An error is the context's.
func (t *Tail) Next(ctx context.Context) (Entry, error) {
	for {
		for len(t.seen) > 0 {
			k := t.seen[0]
			t.seen = t.seen[1:]
			t.lost += k.number - t.next
			t.next = k.number + 1
			if t.filter.Match(k.record) {
				e := Entry{Cursor: Cursor{t.journal.epoch, k.number}, Record: k.record, Lost: t.lost, Restarted: t.restarted}
				if e.Restarted {
					e.Lost = 0 // of how many it was restarted tells nothing
				}
				t.lost, t.restarted = 0, false
				return e, nil
			}
		}
		if err := ctx.Err(); err != nil {
			return Entry{}, fmt.Errorf("follow records: %w", err)
		}
		more := t.take()
		if more == nil {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}

// take takes records out; where there are none it returns what is closed once there
// are.
func (t *Tail) take() <-chan struct{} {
	j := t.journal
	if t.seen = j.after(t.next, math.MaxUint64); len(t.seen) > 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.next > t.next {
		return nil // meanwhile
	}
	if j.wake == nil {
		j.wake = make(chan struct{})
	}
	return j.wake
}

// Close ends the following.
func (t *Tail) Close() {
	t.once.Do(func() {
		t.journal.mu.Lock()
		defer t.journal.mu.Unlock()
		t.journal.followers--
	})
}
