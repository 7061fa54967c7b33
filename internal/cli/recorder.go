package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
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
	stderr  *os.File
	file    *os.File // to be closed; nil for stdout and for none
	out     *os.File // where lines go; nil for nowhere
	writer  *event.Writer
	summary *event.Summary
	sinks   event.Tee
	failed  bool // a line of another agent's could not be written
}

func openRecorder(env Env, path string) (*recorder, error) {
	r := &recorder{stderr: env.Stderr}
	out := env.Stdout
	if path != "" && path != "-" {
		file, err := createRecords(path)
		if err != nil {
			return nil, fmt.Errorf("open --records: %w", err)
		}
		r.file, out = file, file
	}
	if path != "" {
		r.out = out
		r.writer = event.NewWriter(event.WriterConfig{Out: out, Report: func(err error) {
			fmt.Fprintf(env.Stderr, "ringfence: records are being lost: %s\n", event.Prose(err.Error()))
		}})
		r.sinks = append(r.sinks, r.writer)
	}
	if tty.IsTerminal(env.Stderr) {
		r.summary = &event.Summary{}
		r.sinks = append(r.sinks, r.summary)
	}
	return r, nil
}

// createRecords makes the file, or empties it. It is root that writes, and perhaps
// where an earlier sandbox could: so a link that may have been put there, to a
// file of root's, is refused. The links of /dev and /proc (a shell's >(command))
// are nobody's to put.
func createRecords(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | syscall.O_NOFOLLOW
	if strings.HasPrefix(path, "/dev/") || strings.HasPrefix(path, "/proc/") {
		flags &^= syscall.O_NOFOLLOW
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return nil, hint(fmt.Errorf("%s is a symbolic link", path), "name the file that it stands for")
	}
	if err != nil {
		return nil, err
	}
	if err := emptyFile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func emptyFile(file *os.File) error {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		return hint(fmt.Errorf("%s has other names (hard links)", file.Name()), "name a new file")
	}
	return file.Truncate(0)
}

// Emit implements agent.Sink.
func (r *recorder) Emit(record *flow.Record) { r.sinks.Emit(record) }

// wanted reports whether anybody is there to read records.
func (r *recorder) wanted() bool { return len(r.sinks) > 0 }

// takeLine takes a record that another agent has made, with its line of JSON.
func (r *recorder) takeLine(line string, record *flow.Record) {
	if r.out != nil {
		if _, err := fmt.Fprintf(r.out, "%s\n", oneLine(line)); err != nil && !r.failed {
			r.failed = true
			fmt.Fprintf(r.stderr, "ringfence: records are being lost: %s\n", event.Prose(err.Error()))
		}
	}
	if r.summary != nil {
		r.summary.Emit(record)
	}
}

// close writes what is left. Call it once no connection is open any more.
func (r *recorder) close() error {
	var errs []error
	if r.summary != nil {
		errs = append(errs, r.summary.Render(r.stderr))
	}
	if r.writer != nil {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		errs = append(errs, r.writer.Close(ctx))
		if lost := r.writer.Lost(); lost > 0 {
			fmt.Fprintf(r.stderr, "ringfence: %d records were lost\n", lost)
		}
	}
	if r.file != nil {
		errs = append(errs, r.file.Close())
	}
	return errors.Join(errs...)
}
