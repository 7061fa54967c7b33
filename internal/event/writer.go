package event

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	// DefaultQueue is how many records may wait for a writer.
	DefaultQueue = 8192
	// flushAt is how many bytes are gathered before they are written although
	// more records are waiting.
	flushAt = 64 << 10
)

// WriterConfig says where lines go.
type WriterConfig struct {
	Out   io.Writer
	Queue int // records that may wait; 0 is DefaultQueue
	// Report is told of the first error of Out; may be nil.
	Report func(error)
	// ReportAgain is after how long it is told of a further one; 0 is never.
	ReportAgain time.Duration
}

// Writer is a sink that writes JSON lines. One goroutine writes; Emit only
// queues. Records that find the queue full, or that Out fails to take, are lost
// and counted.
type Writer struct {
	cfg     WriterConfig
	lost    atomic.Uint64
	drained chan struct{}

	mu     sync.RWMutex // held to write only by Close
	queue  chan *flow.Record
	closed bool

	// The fields below belong to the draining goroutine.
	buf      []byte
	reported time.Time // zero: never
	torn     bool      // Out ends within a line
}

// NewWriter starts a writer. Close ends it.
func NewWriter(cfg WriterConfig) *Writer {
	if cfg.Queue <= 0 {
		cfg.Queue = DefaultQueue
	}
	w := &Writer{
		cfg:     cfg,
		queue:   make(chan *flow.Record, cfg.Queue),
		drained: make(chan struct{}),
	}
	go w.drain()
	return w
}

// Emit queues the record, or counts it as lost.
func (w *Writer) Emit(r *flow.Record) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		w.lost.Add(1)
		return
	}
	select {
	case w.queue <- r:
	default:
		w.lost.Add(1)
	}
}

// Lost returns how many records were lost so far.
func (w *Writer) Lost() uint64 { return w.lost.Load() }

// Close writes what is queued and ends the writer; records emitted later are
// lost. Out is not closed. When the context ends first, because Out blocks, the
// draining goroutine is left to it.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.queue)
	}
	w.mu.Unlock()
	select {
	case <-w.drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush records: %w", ctx.Err())
	}
}

func (w *Writer) drain() {
	defer close(w.drained)
	for r := range w.queue {
		line, err := AppendJSON(w.buf, r)
		if err != nil {
			w.lost.Add(1)
			w.report(err)
			continue
		}
		w.buf = line
		// A reader that follows the file sees a record when nothing else waits.
		if len(w.queue) == 0 || len(w.buf) >= flushAt {
			w.flush()
		}
	}
	w.flush()
}

// flush hands the gathered lines to Out. Those that it does not take are lost:
// keeping them could only grow, and a later write may find room again.
func (w *Writer) flush() {
	if len(w.buf) == 0 {
		return
	}
	if w.torn { // end the line that was cut by an earlier error
		if _, err := w.cfg.Out.Write([]byte{'\n'}); err == nil {
			w.torn = false
		}
	}
	n := 0
	var err error
	if !w.torn {
		n, err = w.cfg.Out.Write(w.buf)
	}
	if n < len(w.buf) {
		w.lost.Add(uint64(bytes.Count(w.buf[n:], []byte{'\n'})))
		w.torn = w.torn || n > 0 && w.buf[n-1] != '\n'
	}
	if err != nil {
		w.report(fmt.Errorf("write records: %w", err))
	}
	w.buf = w.buf[:0]
	if cap(w.buf) > 4*flushAt {
		w.buf = nil
	}
}

func (w *Writer) report(err error) {
	again := w.cfg.ReportAgain > 0 && time.Since(w.reported) >= w.cfg.ReportAgain
	if w.cfg.Report == nil || !w.reported.IsZero() && !again {
		return
	}
	w.reported = time.Now()
	w.cfg.Report(err)
}
