package event

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/testenv"
)

// lines returns the pids of a file's lines, of which each is whole.
func lines(t *testing.T, path string) (list []int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var r struct{ PID int }
		if err := json.Unmarshal(line, &r); err != nil || !bytes.HasSuffix(line, []byte("\n")) {
			t.Errorf("%s holds %q: %v", filepath.Base(path), line, err)
		}
		list = append(list, r.PID)
	}
	return list
}

func TestFileRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records")
	j, err := NewJournal(JournalConfig{File: FileConfig{Path: path, Bytes: 4000, Keep: 2}})
	if err != nil {
		t.Fatal(err)
	}
	const count = 100
	for n := range uint32(count) {
		j.Emit(&flow.Record{PID: n})
		for len(j.out.queue) > 0 { // so that they are not one write
			time.Sleep(time.Microsecond)
		}
	}
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 3 {
		t.Fatalf("%q, %v", names, err)
	}
	want := count - 1
	for n := range 3 {
		name := path
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		info, err := os.Stat(name)
		if err != nil || info.Size() > 4000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		list := lines(t, name)
		for i := len(list) - 1; i >= 0; i-- {
			if list[i] != want {
				t.Fatalf("%s: %v does not end before %d", name, list, want+1)
			}
			want--
		}
	}
	if want > count-20 {
		t.Errorf("only those after %d are there", want)
	}
}

// What was cut by a crash is not made part of another line.
func TestFileGoesOnAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records")
	if err := os.WriteFile(path, []byte(`{"pid":1}`+"\n"+`{"pi`), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := NewJournal(JournalConfig{File: FileConfig{Path: path}})
	if err != nil {
		t.Fatal(err)
	}
	emit(j, 2, 2)
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(string(text), "\n"); len(got) != 4 || got[0] != `{"pid":1}` || got[1] != `{"pi` || !strings.HasPrefix(got[2], `{"time"`) {
		t.Errorf("%q", got)
	}
}

func TestFileIsNoOtherThing(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.WriteFile(path("target"), nil, 0o600), os.Symlink("target", path("link")),
		os.WriteFile(path("hard"), nil, 0o600), os.Link(path("hard"), path("other name")),
		unix.Mkfifo(path("fifo"), 0o600), os.Mkdir(path("dir"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"link", "hard", "fifo", "dir", "missing/file"} {
		if j, err := NewJournal(JournalConfig{File: FileConfig{Path: path(name)}}); err == nil {
			t.Errorf("%s is written to", name)
			_ = j.Close(t.Context())
		}
	}
}

// A full disk costs lines, which are counted and told, and nothing else. Once there is
// room again, lines are written again.
func TestFileOnAFullDisk(t *testing.T) {
	testenv.Require(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "records")
	var told atomic.Int64
	j, err := NewJournal(JournalConfig{File: FileConfig{Path: path, Bytes: 20_000, Keep: 5}, Report: func(error) { told.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	const count = 1000 // of some 300 bytes: they fill three files, and have no room for a fourth
	fill := func(from, to uint32) {
		for n := from; n <= to; n++ {
			j.Emit(&flow.Record{PID: n})
			for len(j.out.queue) > 0 {
				time.Sleep(time.Microsecond)
			}
		}
	}
	fill(1, count)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if told.Load() == 0 {
		t.Error("nobody is told")
	}
	for _, name := range []string{".1", ".2", ".3", ".4"} {
		_ = os.Remove(path + name)
	}
	before := j.Lost()
	fill(count+1, count+20)
	if err := j.Close(ctx); err != nil {
		t.Fatal(err)
	}
	whole, torn := uint64(0), uint64(0)
	names, _ := filepath.Glob(path + "*")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			if json.Valid(line) && bytes.HasSuffix(line, []byte("}\n")) {
				whole++
			} else {
				torn++
			}
		}
	}
	if before < 100 || j.Lost() > before+5 {
		t.Errorf("%d were lost on the full disk, %d afterwards", before, j.Lost()-before)
	}
	if whole < 10 || torn > uint64(len(names))+1 {
		t.Errorf("%d whole lines, %d that are none", whole, torn)
	}
	if list, _ := j.Last(Filter{}, 1); len(list) != 1 || list[0].Record.PID != count+20 {
		t.Error("what is kept in memory suffers")
	}
	t.Logf("%d lost, %d whole, %d torn in %d files", before, whole, torn, len(names))
}

// The error of a disk is told again, and not for each line.
func TestWriterReportsAgain(t *testing.T) {
	reports := 0
	w := &Writer{cfg: WriterConfig{Out: &fullDisk{}, Report: func(error) { reports++ }, ReportAgain: time.Hour}}
	for range 3 {
		w.report(errNoSpace)
	}
	if reports != 1 {
		t.Errorf("told %d times", reports)
	}
	w.reported = time.Now().Add(-2 * time.Hour)
	w.report(errNoSpace)
	if reports != 2 {
		t.Errorf("told %d times after the while", reports)
	}
}
