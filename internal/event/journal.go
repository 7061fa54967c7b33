package event

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

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

// lookAtOnce is how many records are taken out at a time, so that Emit waits for no
// more than that.
const lookAtOnce = 512

// ErrFollowers: as many follow the journal as may.
var ErrFollowers = errors.New("too many follow the records")

// JournalConfig says what a journal keeps.
type JournalConfig struct {
	Records   int // kept at most; 0 is DefaultJournalRecords
	Bytes     int // that they hold at most; 0 is DefaultJournalBytes
	Followers int // at once; 0 is DefaultFollowers
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
// those of the others: what must be kept is for the file.
type Journal struct {
	cfg   JournalConfig
	epoch uint64
	file  *rotating // nil without
	out   *Writer   // likewise

	mu sync.Mutex
	// kept is a ring: the record number n is at n modulo its length. It holds those
	// from first up to, but without, next.
	kept        []kept
	first, next uint64
	bytes       int
	followers   int
	wake        chan struct{} // closed by the next Emit; nil while nobody waits
}

type kept struct {
	record *flow.Record
	size   int
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
	j := &Journal{cfg: cfg, epoch: binary.LittleEndian.Uint64(epoch[:]) | 1, first: 1, next: 1, kept: make([]kept, min(cfg.Records, lookAtOnce))}
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

// Emit keeps the record, and lets go of the oldest where there is no room.
func (j *Journal) Emit(r *flow.Record) {
	if j.out != nil {
		j.out.Emit(r)
	}
	size := sizeOf(r)
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.first < j.next && (j.bytes+size > j.cfg.Bytes || j.next-j.first >= uint64(j.cfg.Records)) {
		oldest := j.at(j.first)
		j.bytes -= oldest.size
		*oldest = kept{}
		j.first++
	}
	if j.next-j.first == uint64(len(j.kept)) {
		j.grow()
	}
	*j.at(j.next) = kept{r, size}
	j.next++
	j.bytes += size
	if j.wake != nil {
		close(j.wake)
		j.wake = nil
	}
}

// at returns the place of a record. The caller holds mu.
func (j *Journal) at(n uint64) *kept { return &j.kept[n%uint64(len(j.kept))] }

// grow doubles the ring, up to its bound. The caller holds mu.
func (j *Journal) grow() {
	larger := make([]kept, min(2*len(j.kept), j.cfg.Records))
	for n := j.first; n < j.next; n++ {
		larger[n%uint64(len(larger))] = *j.at(n)
	}
	j.kept = larger
}

// sizeOf is what a record holds, in bytes, as if it shared nothing.
func sizeOf(r *flow.Record) int {
	n := int(unsafe.Sizeof(*r)) + int(unsafe.Sizeof(kept{}))
	for _, s := range []string{
		r.Sandbox, r.Policy, r.Detail, r.Hint, r.Binary, r.Host, r.Address, r.ExecID, r.SHA256, r.Script,
		r.User, r.Source, r.Key, r.Command, r.Object,
	} {
		n += len(s)
	}
	for _, list := range [][]string{r.Ancestors, r.Taints, r.Preload} {
		for _, s := range list {
			n += int(unsafe.Sizeof(s)) + len(s)
		}
	}
	return n
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
		records, at := j.look(number, min(number+lookAtOnce, end))
		if len(records) == 0 {
			break
		}
		for i, r := range records {
			if !f.Match(r) {
				continue
			}
			if len(page.Entries) == limit {
				page.Next = Cursor{j.epoch, at + uint64(i) - 1}.String()
				return page, nil
			}
			page.Entries = append(page.Entries, Entry{Cursor: Cursor{j.epoch, at + uint64(i)}, Record: r})
		}
		number = at + uint64(len(records))
	}
	return page, nil
}

// Last returns the newest records that the filter lets through, at most limit of
// them, the oldest first; and where to follow from to miss none.
func (j *Journal) Last(f Filter, limit int) ([]Entry, Cursor) {
	first, end := j.position(Cursor{})
	var entries []Entry // the newest first
	for at := end; at > first && len(entries) < limit; {
		start := at - min(lookAtOnce, at-first)
		records, from := j.look(start, at)
		for i := len(records) - 1; i >= 0 && len(entries) < limit; i-- {
			if f.Match(records[i]) {
				entries = append(entries, Entry{Cursor: Cursor{j.epoch, from + uint64(i)}, Record: records[i]})
			}
		}
		if from > start {
			break // the rest was let go of
		}
		at = start
	}
	slices.Reverse(entries)
	return entries, Cursor{j.epoch, end - 1}
}

// position returns the number after a cursor's, and the one of the next record. A
// cursor of another journal's stands for the oldest record there is.
func (j *Journal) position(c Cursor) (number, end uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if c.Epoch == j.epoch && c.Number >= j.first && c.Number < j.next {
		return c.Number + 1, j.next
	}
	return j.first, j.next
}

// look returns the records from a number on, or from the first one that is still there,
// up to but without end; and the number of the first of them.
func (j *Journal) look(number, end uint64) (records []*flow.Record, at uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	at = max(number, j.first)
	for i := at; i < min(end, j.next); i++ {
		records = append(records, j.at(i).record)
	}
	return records, at
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
		t.next, t.restarted = j.first, true
	}
	return t, nil
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

	// seen are records that were taken out and not yet looked at, from the number at.
	seen []*flow.Record
	at   uint64

	once sync.Once
}

// Next waits for the next record. An error is the context's.
func (t *Tail) Next(ctx context.Context) (Entry, error) {
	for {
		for i, r := range t.seen {
			if !t.filter.Match(r) {
				continue
			}
			e := Entry{Cursor: Cursor{t.journal.epoch, t.at + uint64(i)}, Record: r, Lost: t.lost, Restarted: t.restarted}
			t.seen, t.at = t.seen[i+1:], t.at+uint64(i)+1
			t.lost, t.restarted = 0, false
			return e, nil
		}
		t.seen = nil
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
	t.seen, t.at = j.look(t.next, t.next+lookAtOnce)
	t.lost += t.at - t.next
	t.next = t.at + uint64(len(t.seen))
	if len(t.seen) > 0 {
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
