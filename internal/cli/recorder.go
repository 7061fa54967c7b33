package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/tty"
)

// flushTimeout bounds the wait for records that are still to be written.
const flushTimeout = 5 * time.Second

// recorder takes the records of a run: as JSON lines where --records asks for
// them, and as a summary where somebody is there to read it.
type recorder struct {
	env     Env
	file    *os.File // to be closed; nil for stdout and for none
	writer  *event.Writer
	summary *event.Summary
	sinks   event.Tee
}

func openRecorder(env Env, path string) (*recorder, error) {
	r := &recorder{env: env}
	out := env.Stdout
	switch path {
	case "", "-":
	default:
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open --records: %w", err)
		}
		r.file, out = file, file
	}
	if path != "" {
		r.writer = event.NewWriter(event.WriterConfig{Out: out, Report: func(err error) {
			fmt.Fprintf(env.Stderr, "ringfence: records are being lost: %v\n", err)
		}})
		r.sinks = append(r.sinks, r.writer)
	}
	if tty.IsTerminal(env.Stderr) {
		r.summary = &event.Summary{}
		r.sinks = append(r.sinks, r.summary)
	}
	return r, nil
}

// Emit implements agent.Sink.
func (r *recorder) Emit(record *flow.Record) { r.sinks.Emit(record) }

// close writes what is left. Call it once no connection is open any more.
func (r *recorder) close() error {
	var errs []error
	if r.summary != nil {
		errs = append(errs, r.summary.Render(r.env.Stderr))
	}
	if r.writer == nil {
		return errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	errs = append(errs, r.writer.Close(ctx))
	if lost := r.writer.Lost(); lost > 0 {
		fmt.Fprintf(r.env.Stderr, "ringfence: %d records were lost\n", lost)
	}
	if r.file != nil {
		errs = append(errs, r.file.Close())
	}
	return errors.Join(errs...)
}
