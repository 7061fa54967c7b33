package event

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

func closeWriter(t *testing.T, w *Writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestWriterCounts: whatever happens, each record is written or lost.
func TestWriterCounts(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(WriterConfig{Out: &out, Queue: 16})
	const emitters, each = 8, 500
	var all sync.WaitGroup
	for range emitters {
		all.Go(func() {
			for range each {
				w.Emit(&flow.Record{Host: "example.com"})
			}
		})
	}
	all.Wait()
	closeWriter(t, w)
	w.Emit(&flow.Record{})
	closeWriter(t, w)
	written := uint64(strings.Count(out.String(), "\n"))
	if written == 0 || written+w.Lost() != emitters*each+1 {
		t.Errorf("%d written, %d lost", written, w.Lost())
	}
}

// TestWriterFollows: a record is written when nothing else waits, not at Close.
func TestWriterFollows(t *testing.T) {
	r, pipe := io.Pipe()
	w := NewWriter(WriterConfig{Out: pipe})
	w.Emit(&flow.Record{Host: "example.com"})
	buf := make([]byte, 4096)
	if n, err := r.Read(buf); err != nil || !bytes.HasSuffix(buf[:n], []byte("}\n")) {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	closeWriter(t, w)
}

// TestWriterBlocked: an Out that blocks costs records, and neither Emit nor
// Close more than their bounds.
func TestWriterBlocked(t *testing.T) {
	r, pipe := io.Pipe()
	w := NewWriter(WriterConfig{Out: pipe, Queue: 4})
	// Besides the queue, the writer gathers up to flushAt bytes: some 200 records.
	const emitted = 10_000
	for range emitted {
		w.Emit(&flow.Record{})
	}
	if lost := w.Lost(); lost < emitted/2 {
		t.Errorf("%d lost", lost)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := w.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v", err)
	}
	r.Close()
	closeWriter(t, w)
	if lost := w.Lost(); lost != emitted {
		t.Errorf("%d lost", lost)
	}
}

// fullDisk fails after room bytes until it is given more.
type fullDisk struct {
	bytes.Buffer
	room int
}

var errNoSpace = errors.New("no space left on device")

func (d *fullDisk) Write(b []byte) (int, error) {
	n := min(len(b), d.room)
	d.room -= n
	d.Buffer.Write(b[:n])
	if n < len(b) {
		return n, errNoSpace
	}
	return n, nil
}

func TestWriterDiskFull(t *testing.T) {
	disk := &fullDisk{room: 10}
	var reports []error
	w := &Writer{cfg: WriterConfig{Out: disk, Report: func(err error) { reports = append(reports, err) }}}
	flush := func() {
		var err error
		if w.buf, err = AppendJSON(w.buf, &flow.Record{}); err != nil {
			t.Fatal(err)
		}
		w.flush()
	}
	flush() // torn within the line
	flush() // no room
	disk.room = 1 << 20
	flush()
	flush()
	if w.Lost() != 2 {
		t.Errorf("%d lost, want 2", w.Lost())
	}
	if len(reports) != 1 || !errors.Is(reports[0], errNoSpace) {
		t.Errorf("reports: %v", reports)
	}
	lines := strings.Split(disk.String(), "\n")
	if len(lines) != 4 || len(lines[0]) != 10 || !strings.HasPrefix(lines[1], "{") || !strings.HasSuffix(lines[1], "}") {
		t.Errorf("lines: %q", lines)
	}
}

func BenchmarkEmit(b *testing.B) {
	w := NewWriter(WriterConfig{Out: io.Discard})
	defer w.Close(context.Background())
	r := &flow.Record{Binary: "/usr/bin/curl", Host: "example.com", Ancestors: []string{"/bin/bash"}}
	b.ReportAllocs()
	for b.Loop() {
		w.Emit(r)
	}
	b.ReportMetric(float64(w.Lost())/float64(b.N), "lost/op")
}

func BenchmarkAppendJSON(b *testing.B) {
	r := &flow.Record{Binary: "/usr/bin/curl", Host: "example.com", Ancestors: []string{"/bin/bash"}}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = AppendJSON(buf[:0], r); err != nil {
			b.Fatal(err)
		}
	}
}
