package event

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

func newJournal(t testing.TB, cfg JournalConfig) *Journal {
	t.Helper()
	j, err := NewJournal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := j.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return j
}

// emit emits records that are told apart by their pid.
func emit(j *Journal, from, to uint32) {
	for n := from; n <= to; n++ {
		j.Emit(&flow.Record{PID: n})
	}
}

func pids(entries []Entry) (list []uint32) {
	for _, e := range entries {
		list = append(list, e.Record.PID)
	}
	return list
}

func span(from, to uint32) (list []uint32) {
	for n := from; n <= to; n++ {
		list = append(list, n)
	}
	return list
}

// all reads every page of a query.
func all(t *testing.T, j *Journal, f Filter, limit int) (list []uint32) {
	t.Helper()
	for token := ""; ; {
		page, err := j.Query(f, limit, token)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Entries) > limit {
			t.Fatalf("%d entries", len(page.Entries))
		}
		list = append(list, pids(page.Entries)...)
		if token = page.Next; token == "" {
			return list
		}
	}
}

func TestJournalKeepsTheLast(t *testing.T) {
	for _, records := range []int{1, 7, lookAtOnce, 3 * lookAtOnce} {
		j := newJournal(t, JournalConfig{Records: records})
		for _, last := range []uint32{1, 5, 600, 5000} {
			first := uint32(1)
			if j.next > 1 {
				first = uint32(j.next)
			}
			emit(j, first, last)
			want := span(max(1, last-min(last, uint32(records))+1), last)
			if diff := cmp.Diff(want, all(t, j, Filter{}, 100)); diff != "" {
				t.Errorf("of %d after %d: %s", records, last, diff)
			}
		}
	}
}

func TestJournalIsBoundedInBytes(t *testing.T) {
	const most = 1 << 20
	j := newJournal(t, JournalConfig{Bytes: most})
	for n := range uint32(500) {
		j.Emit(&flow.Record{PID: n, Command: strings.Repeat("x", 10_000)})
	}
	got := all(t, j, Filter{}, MaxPage)
	if n := len(got); n < 90 || n > 105 || got[n-1] != 499 {
		t.Errorf("%d are kept", n)
	}
	if j.outward.bytes > most {
		t.Errorf("%d bytes", j.outward.bytes)
	}
	// One that is too large for any is kept alone.
	j.Emit(&flow.Record{PID: 7, Command: strings.Repeat("x", 2*most)})
	emit(j, 8, 8)
	if diff := cmp.Diff([]uint32{8}, all(t, j, Filter{}, MaxPage)); diff != "" {
		t.Error(diff)
	}
	emit(j, 9, 10)
	sum := 0
	for _, k := range j.after(1, j.next) {
		sum += sizeOf(k.record)
	}
	if sum != j.outward.bytes || sum == 0 {
		t.Errorf("%d bytes are counted, %d are there", j.outward.bytes, sum)
	}
}

// A sandbox that makes many records does not push out who came in, and all come in their
// order, with the gaps told.
func TestJournalKeepsWhatPeopleDid(t *testing.T) {
	for _, connections := range []uint32{3, 700, 2000} {
		j := newJournal(t, JournalConfig{Records: 80}) // and 11 of the others
		var want []uint32
		emitted := uint32(0)
		for login := range uint32(20) {
			emitted++
			j.Emit(&flow.Record{PID: emitted, Mode: flow.ModeSSH, Reason: flow.ReasonSSHLogin})
			if login >= 9 {
				want = append(want, emitted)
			}
			emit(j, emitted+1, emitted+connections)
			emitted += connections
		}
		logins := Filter{Modes: []flow.Mode{flow.ModeSSH}}
		for _, limit := range []int{1, 5, 100} {
			if diff := cmp.Diff(want, all(t, j, logins, limit)); diff != "" {
				t.Errorf("%d connections by %d: %s", connections, limit, diff)
			}
			last, _ := j.Last(logins, limit)
			if diff := cmp.Diff(want[max(0, len(want)-limit):], pids(last)); diff != "" {
				t.Errorf("the last %d with %d connections: %s", limit, connections, diff)
			}
		}
		got := all(t, j, Filter{}, 7)
		if !slices.IsSorted(got) || got[len(got)-1] != emitted || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Errorf("%v", got)
		}
		last, _ := j.Last(Filter{}, 1000)
		if diff := cmp.Diff(got, pids(last)); diff != "" {
			t.Errorf("the last differ: %s", diff)
		}
		seen := uint32(1)
		for tail := follow(t, j, Filter{}, Cursor{j.epoch, 1}); seen < emitted; {
			e := next(t, tail)
			if seen += 1 + uint32(e.Lost); e.Record.PID != seen {
				t.Fatalf("%d comes after %d lost, and should be %d", e.Record.PID, e.Lost, seen)
			}
		}
	}
}

// Of many that are looked at in parts, none is left out where the two kinds meet.
func TestJournalInParts(t *testing.T) {
	j := newJournal(t, JournalConfig{})
	const each = lookAtOnce + 100
	n := uint32(0)
	for _, mode := range []flow.Mode{flow.ModeSSH, flow.ModeConnect, flow.ModeAPI} {
		for range each {
			n++
			j.Emit(&flow.Record{PID: n, Mode: mode})
		}
	}
	if diff := cmp.Diff(span(1, 3*each), all(t, j, Filter{}, MaxPage)); diff != "" {
		t.Error(diff)
	}
	last, _ := j.Last(Filter{}, 3*each)
	if diff := cmp.Diff(span(1, 3*each), pids(last)); diff != "" {
		t.Error(diff)
	}
}

// Every text of a record is counted.
func TestSizeOf(t *testing.T) {
	long := strings.Repeat("x", 1000)
	empty := sizeOf(&flow.Record{})
	var r flow.Record
	names := fill(reflect.ValueOf(&r).Elem(), long)
	if len(names) < 15 {
		t.Fatalf("only %q", names)
	}
	// Engine and reason are of our own words.
	if got := sizeOf(&r) - empty; got < 1000*(len(names)-2) {
		t.Errorf("%d bytes for %d texts", got, len(names))
	}
}

func TestQueryFilters(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	j := newJournal(t, JournalConfig{})
	for n, r := range []*flow.Record{
		{Sandbox: "a", Verdict: flow.Allow, Host: "www.example.com", Binary: "/bin/\xff", Reason: flow.ReasonAllowed},
		{Sandbox: "a", Verdict: flow.Deny, Host: "example.com", Reason: flow.ReasonNoEndpoint},
		{Sandbox: "b", Verdict: flow.Audit, Host: "notexample.com"},
		{Sandbox: "b", Mode: flow.ModeSSH, Verdict: flow.Deny, Reason: flow.ReasonSSHRefused, Host: "EXAMPLE.com"},
	} {
		r.PID, r.Time = uint32(n+1), at.Add(time.Duration(n)*time.Second)
		j.Emit(r)
	}
	for name, test := range map[string]struct {
		filter Filter
		want   []uint32
	}{
		"all":        {Filter{}, []uint32{1, 2, 3, 4}},
		"sandbox":    {Filter{Sandbox: "a"}, []uint32{1, 2}},
		"deny":       {Filter{Verdicts: []flow.Verdict{flow.Deny}}, []uint32{2, 4}},
		"two":        {Filter{Verdicts: []flow.Verdict{flow.Allow, flow.Audit}}, []uint32{1, 3}},
		"host":       {Filter{Host: "Example.com"}, []uint32{2, 4}},
		"below":      {Filter{Host: ".example.com"}, []uint32{1}},
		"binary":     {Filter{Binary: "/bin/\xff"}, []uint32{1}},
		"reason":     {Filter{Reasons: []flow.Reason{flow.ReasonNoEndpoint}}, []uint32{2}},
		"mode":       {Filter{Modes: []flow.Mode{flow.ModeSSH}}, []uint32{4}},
		"since":      {Filter{Since: at.Add(2 * time.Second)}, []uint32{3, 4}},
		"until":      {Filter{Until: at.Add(2 * time.Second)}, []uint32{1, 2}},
		"both":       {Filter{Sandbox: "b", Verdicts: []flow.Verdict{flow.Deny}}, []uint32{4}},
		"none":       {Filter{Sandbox: "c"}, nil},
		"binary all": {Filter{Binary: "/bin/x"}, nil},
	} {
		for _, limit := range []int{1, 2, 100} {
			if diff := cmp.Diff(test.want, all(t, j, test.filter, limit)); diff != "" {
				t.Errorf("%s by %d: %s", name, limit, diff)
			}
		}
		last, _ := j.Last(test.filter, 1)
		if want := test.want[max(0, len(test.want)-1):]; !cmp.Equal(want, pids(last)) && len(want)+len(last) > 0 {
			t.Errorf("last of %s: %v, want %v", name, pids(last), want)
		}
	}
}

func TestLast(t *testing.T) {
	j := newJournal(t, JournalConfig{Records: 2000})
	if entries, _ := j.Last(Filter{}, 10); len(entries) != 0 {
		t.Errorf("%v of none", pids(entries))
	}
	emit(j, 1, 5000)
	entries, from := j.Last(Filter{}, 1500)
	if diff := cmp.Diff(span(3501, 5000), pids(entries)); diff != "" {
		t.Error(diff)
	}
	if entries, _ := j.Last(Filter{}, 1<<20); len(entries) != 2000 {
		t.Errorf("%d of all", len(entries))
	}
	tail := follow(t, j, Filter{}, from)
	emit(j, 5001, 5001)
	if e := next(t, tail); e.Record.PID != 5001 || e.Lost != 0 || e.Restarted {
		t.Errorf("%+v", e)
	}
}

// What is let go of between two pages is left out, and nothing else.
func TestPagesOfWhatGoes(t *testing.T) {
	j := newJournal(t, JournalConfig{Records: 10})
	emit(j, 1, 10)
	page, err := j.Query(Filter{}, 3, "")
	if err != nil {
		t.Fatal(err)
	}
	emit(j, 11, 18)
	page, err = j.Query(Filter{}, 100, page.Next)
	if diff := cmp.Diff(span(9, 18), pids(page.Entries)); diff != "" || err != nil || page.Next != "" {
		t.Error(diff, err, page.Next)
	}
	var bad *TokenError
	if _, err := j.Query(Filter{}, 1, "x"); !errors.As(err, &bad) {
		t.Errorf("a token that is none: %v", err)
	}
}

func follow(t *testing.T, j *Journal, f Filter, from Cursor) *Tail {
	t.Helper()
	tail, err := j.Tail(f, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tail.Close)
	return tail
}

func next(t *testing.T, tail *Tail) Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	e, err := tail.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestTail(t *testing.T) {
	j := newJournal(t, JournalConfig{Records: 100})
	emit(j, 1, 5)
	tail := follow(t, j, Filter{Sandbox: ""}, Cursor{})
	got := make(chan Entry)
	go func() {
		e, err := tail.Next(t.Context())
		if err != nil {
			t.Error(err)
		}
		got <- e
	}()
	for waiting := false; !waiting; { // so that it is woken
		j.mu.Lock()
		waiting = j.wake != nil
		j.mu.Unlock()
	}
	emit(j, 6, 6)
	e := <-got
	if e.Record.PID != 6 {
		t.Errorf("the first to come is %d", e.Record.PID)
	}
	// Resumed, it misses none and sees none twice.
	emit(j, 7, 50)
	again := follow(t, j, Filter{}, e.Cursor)
	for n := uint32(7); n <= 50; n++ {
		if e := next(t, again); e.Record.PID != n || e.Lost != 0 || e.Restarted {
			t.Fatalf("%+v in place of %d", e, n)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := again.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("at the end: %v", err)
	}
}

// A slow reader is told what he lost, and one who comes back after a restart that it
// was one.
func TestTailLoses(t *testing.T) {
	j := newJournal(t, JournalConfig{Records: 10})
	emit(j, 1, 1)
	tail := follow(t, j, Filter{}, Cursor{})
	emit(j, 2, 101) // 92 to 101 are kept
	if e := next(t, tail); e.Record.PID != 92 || e.Lost != 90 {
		t.Errorf("%d, %d lost", e.Record.PID, e.Lost)
	}
	if e := next(t, tail); e.Record.PID != 93 || e.Lost != 0 {
		t.Errorf("%d, %d lost", e.Record.PID, e.Lost)
	}
	for _, from := range []Cursor{{Epoch: j.epoch ^ 2, Number: 95}, {Epoch: j.epoch, Number: 1 << 60}} {
		if e := next(t, follow(t, j, Filter{}, from)); e.Record.PID != 92 || !e.Restarted || e.Lost != 0 {
			t.Errorf("%+v", e)
		}
	}
}

func TestFollowersAreBounded(t *testing.T) {
	j := newJournal(t, JournalConfig{Followers: 2})
	first := follow(t, j, Filter{}, Cursor{})
	follow(t, j, Filter{}, Cursor{})
	if _, err := j.Tail(Filter{}, Cursor{}); !errors.Is(err, ErrFollowers) {
		t.Errorf("the third: %v", err)
	}
	first.Close()
	first.Close()
	follow(t, j, Filter{}, Cursor{})
	if _, err := j.Tail(Filter{}, Cursor{}); !errors.Is(err, ErrFollowers) {
		t.Errorf("closed twice counts twice: %v", err)
	}
}

// Whoever is slow, each record of many emitters is seen or counted, in order, and
// nobody waits for a reader.
func TestTailCounts(t *testing.T) {
	j := newJournal(t, JournalConfig{Records: 200})
	const emitters, each = 4, 5000
	var readers, writers sync.WaitGroup
	for i := range 3 {
		tail := follow(t, j, Filter{}, Cursor{})
		readers.Go(func() {
			seen, last := uint64(0), uint64(0)
			for seen < emitters*each {
				e, err := tail.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if e.Cursor.Number != last+e.Lost+1 {
					t.Errorf("%d comes after %d with %d lost", e.Cursor.Number, last, e.Lost)
					return
				}
				last = e.Cursor.Number
				seen += 1 + e.Lost
				if i == 0 && seen%50 == 0 {
					time.Sleep(100 * time.Microsecond) // the slow one
				}
			}
		})
	}
	for range emitters {
		writers.Go(func() { emit(j, 1, each) })
	}
	writers.Wait()
	readers.Wait()
}

func BenchmarkJournalEmit(b *testing.B) {
	record := &flow.Record{Binary: "/usr/bin/curl", Host: "example.com", Ancestors: []string{"/bin/bash"}}
	for name, followers := range map[string]int{"alone": 0, "followed": 8, "file": 0} {
		b.Run(name, func(b *testing.B) {
			cfg := JournalConfig{}
			if name == "file" {
				cfg.File = FileConfig{Path: filepath.Join(b.TempDir(), "records"), Bytes: 1 << 20}
			}
			j := newJournal(b, cfg)
			ctx, cancel := context.WithCancel(context.Background())
			var readers sync.WaitGroup
			for range followers {
				tail, err := j.Tail(Filter{Sandbox: "other"}, Cursor{})
				if err != nil {
					b.Fatal(err)
				}
				readers.Go(func() {
					defer tail.Close()
					_, _ = tail.Next(ctx)
				})
			}
			b.ReportAllocs()
			for b.Loop() {
				j.Emit(record)
			}
			b.ReportMetric(float64(j.Lost())/float64(b.N), "lost/op")
			cancel()
			readers.Wait()
		})
	}
}

func BenchmarkQuery(b *testing.B) {
	j := newJournal(b, JournalConfig{})
	for n := range DefaultJournalRecords {
		j.Emit(&flow.Record{Sandbox: fmt.Sprint(n % 100), Host: "example.com"})
	}
	for b.Loop() {
		if page, err := j.Query(Filter{Host: ".example.org"}, 10, ""); err != nil || len(page.Entries) != 0 {
			b.Fatal(err)
		}
	}
}

// Who may come in can forward and move files any number of times; that does not push
// out who came in.
func TestFlowsOfSSHPushNobodyOut(t *testing.T) {
	j, err := NewJournal(JournalConfig{Records: 64})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(t.Context())
	j.Emit(&flow.Record{Mode: flow.ModeSSH, Reason: flow.ReasonSSHLogin})
	for range 1000 {
		j.Emit(&flow.Record{Mode: flow.ModeSSH, Reason: flow.ReasonSSHForward, Verdict: flow.Deny})
		j.Emit(&flow.Record{Mode: flow.ModeSSH, Reason: flow.ReasonSSHTransfer})
	}
	if entries, _ := j.Last(Filter{Reasons: []flow.Reason{flow.ReasonSSHLogin}}, 10); len(entries) != 1 {
		t.Errorf("%d logins are known, not 1", len(entries))
	}
}
