package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// tree is a directory as a sandbox's root: real files, of which stat tells what the
// kernel's hooks would.
type tree struct {
	dir   string
	opens atomic.Int64
	// opened is called with each file before it is handed out.
	opened func(path string)
	magic  uint32 // of the file system, in what Identify says
	// identified is called after a file was looked at.
	identified func()
}

func (f *tree) Open(path string) (*os.File, error) {
	f.opens.Add(1)
	file, err := os.Open(filepath.Join(f.dir, path))
	if err == nil && f.opened != nil {
		f.opened(path)
	}
	return file, err
}

func (f *tree) Identify(file *os.File) (flow.FileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return flow.FileID{}, err
	}
	if f.identified != nil {
		f.identified()
	}
	return flow.FileID{Device: st.Dev, Inode: st.Ino, CtimeSec: st.Ctim.Sec, CtimeNsec: uint32(st.Ctim.Nsec), Size: st.Size, FSMagic: f.magic}, nil
}

// lab is a table over a tree, whose files are read in the background.
type lab struct {
	*Table
	t     *testing.T
	execs *execs
	files *tree
	named func(string) bool
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, execs: &execs{records: map[flow.ExecID]flow.Exec{}}, files: &tree{dir: t.TempDir()}}
	l.named = func(path string) bool { return path != "/unnamed" }
	hashes, err := NewHashes()
	if err != nil {
		t.Fatal(err)
	}
	l.Table, err = NewTable(Config{Execs: l.execs, Files: l.files, Hashes: hashes, Named: func(p string) bool { return l.named(p) }})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// read starts the background, and ends it with the test.
func (l *lab) read() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Run(ctx)
	}()
	l.t.Cleanup(func() { cancel(); <-done })
}

// write makes a file anew and lets the clock go on, so that what is started is not
// racy.
func (l *lab) write(path, content string) {
	l.t.Helper()
	name := filepath.Join(l.files.dir, path)
	if err := os.WriteFile(name+".new", []byte(content), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		l.t.Fatal(err)
	}
	time.Sleep(2 * clockTick)
}

// start makes the record of an exec of the file that is there now.
func (l *lab) start(path string, ancestors ...flow.ExecID) flow.ExecID {
	l.t.Helper()
	file, err := os.Open(filepath.Join(l.files.dir, path))
	if err != nil {
		l.t.Fatal(err)
	}
	defer file.Close()
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		l.t.Fatal(err)
	}
	exec := flow.Exec{Image: flow.Image{Exec: flow.ExecID{TGID: 1, Time: uint64(boot.Nano())}, Path: path}, Ancestors: ancestors}
	exec.File, _ = l.files.Identify(file)
	l.execs.records[exec.Exec] = exec
	return exec.Exec
}

func (l *lab) lookup(id flow.ExecID) *flow.Identity {
	l.t.Helper()
	identity, err := l.Lookup(id)
	if err != nil {
		l.t.Fatal(err)
	}
	return identity
}

func (l *lab) await(id flow.ExecID) *flow.Identity {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	identity := l.Await(ctx, l.lookup(id))
	if ctx.Err() != nil {
		l.t.Fatal(ctx.Err())
	}
	return identity
}

func sum(content string) string {
	s := sha256.Sum256([]byte(content))
	return hex.EncodeToString(s[:])
}

func TestHash(t *testing.T) {
	l := newLab(t)
	content := strings.Repeat("x", 3<<20)
	l.write("/tool", content)
	id := l.start("/tool")
	if got := l.lookup(id); got.SHA256 != "" || got.Taints != 0 || l.files.opens.Load() != 0 {
		t.Errorf("before it was read: %q, %v, %d opened", got.SHA256, got.Taints.Names(), l.files.opens.Load())
	}
	before := l.lookup(id)
	l.read()
	after := l.await(id)
	if after.SHA256 != sum(content) || before.SHA256 != "" {
		t.Errorf("%q, and of the identity of before %q", after.SHA256, before.SHA256)
	}
	if got := l.lookup(id); got.SHA256 != after.SHA256 || got.Key == before.Key {
		t.Error("a look-up does not tell the hash")
	}
	// Of every further exec it is known, and the file is not read again.
	if got := l.lookup(l.start("/tool")); got.SHA256 != after.SHA256 || l.files.opens.Load() != 1 {
		t.Errorf("%q, %d opened", got.SHA256, l.files.opens.Load())
	}
}

func TestStartedReadsInTheBackground(t *testing.T) {
	l := newLab(t)
	l.write("/tool", "a")
	l.write("/unnamed", "b")
	l.read()
	l.Started(l.start("/unnamed"))
	id := l.start("/tool")
	l.Started(id)
	for l.reader.hashes.of(l.execs.records[id].File) == "" {
		time.Sleep(time.Millisecond)
	}
	if got := l.lookup(id); got.SHA256 != sum("a") || l.files.opens.Load() != 1 {
		t.Errorf("%q, %d opened", got.SHA256, l.files.opens.Load())
	}
	l.Started(flow.ExecID{TGID: 9, Time: 9}) // gone
}

func TestAncestorsAreHashedToo(t *testing.T) {
	l := newLab(t)
	l.write("/shell", "s")
	l.write("/tool", "t")
	l.read()
	if got := l.await(l.start("/tool", l.start("/shell"))); got.SHA256 != sum("t") || got.Ancestors[0].SHA256 != sum("s") {
		t.Errorf("%+v", got)
	}
}

// Trust on first use: what takes a known path's place is not it, unless it has the
// same content or the operator says so.
func TestChanged(t *testing.T) {
	l := newLab(t)
	l.read()
	changed := func(id flow.ExecID) bool { return l.await(id).Taints.Has(flow.TaintChanged) }
	l.write("/tool", "one")
	first := l.start("/tool")
	if changed(first) {
		t.Error("the first one is changed")
	}
	l.write("/tool", "two")
	second := l.start("/tool")
	if !l.lookup(second).Taints.Has(flow.TaintChanged) {
		t.Error("another file is not changed, before it was read")
	}
	if !changed(second) || changed(first) {
		t.Error("what counts is not what ran")
	}
	l.write("/tool", "one")
	if changed(l.start("/tool")) {
		t.Error("the same content in another file is changed")
	}
	l.write("/other", "two")
	if changed(l.start("/other")) {
		t.Error("the first one of another path is changed")
	}
	child := l.start("/other", second)
	if got := l.await(child); !got.Ancestors[0].Taints.Has(flow.TaintChanged) || got.Taints != 0 {
		t.Errorf("of an ancestor: %+v", got)
	}
	l.Accept("/tool")
	if changed(second) {
		t.Error("what the operator accepted is changed")
	}
	if !changed(first) {
		t.Error("what was accepted before still is")
	}
}

// A file that was replaced before it was read has a content that nobody knows: what
// takes its place cannot be told to be the same.
func TestChangedBeforeItWasRead(t *testing.T) {
	l := newLab(t)
	l.write("/tool", "one")
	first := l.start("/tool")
	l.lookup(first)
	l.write("/tool", "one")
	l.read()
	if got := l.await(first); got.SHA256 != "" || got.Taints != 0 {
		t.Errorf("%q, %v", got.SHA256, got.Taints.Names())
	}
	if got := l.await(l.start("/tool")); !got.Taints.Has(flow.TaintChanged) {
		t.Errorf("%v", got.Taints.Names())
	}
}

// Whatever is done to a file while it is looked at, its hash is that of what ran, or
// there is none.
func TestHashOfWhatRan(t *testing.T) {
	for name, meddle := range map[string]func(path string) error{
		"written": func(path string) error {
			return os.WriteFile(path, []byte("evil"), 0o755)
		},
		"touched": func(path string) error { return os.Chmod(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.write("/tool", "good")
			id := l.start("/tool")
			l.files.opened = func(path string) {
				if err := meddle(filepath.Join(l.files.dir, path)); err != nil {
					t.Error(err)
				}
			}
			l.read()
			if got := l.await(id); got.SHA256 != "" {
				t.Errorf("%q", got.SHA256)
			}
		})
	}
}

// An image that was started within the tick of its file's last change may be
// another one by now, and nothing would tell.
func TestRacy(t *testing.T) {
	l := newLab(t)
	l.read()
	if err := os.WriteFile(filepath.Join(l.files.dir, "tool"), []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.files.magic = 0xEF53 // where a hash of what the user can write counts at all
	taint := func(id flow.ExecID, taints flow.Taint) flow.ExecID {
		exec := l.execs.records[id]
		exec.Taints = taints
		l.execs.records[id] = exec
		return id
	}
	early, roots := taint(l.start("/tool"), flow.TaintWritable), l.start("/tool")
	time.Sleep(2 * clockTick)
	late := taint(l.start("/tool"), flow.TaintWritable)
	if got := l.await(late); got.SHA256 != sum("x") {
		t.Errorf("late: %q", got.SHA256)
	}
	if got := l.await(early); got.SHA256 != "" {
		t.Errorf("early: %q", got.SHA256)
	}
	if got := l.await(roots); got.SHA256 != sum("x") {
		t.Errorf("of a file of root's: %q", got.SHA256)
	}
}

func TestNoHash(t *testing.T) {
	l := newLab(t)
	l.read()
	l.write("/tool", "x")
	id := l.start("/tool")
	for name, change := range map[string]func(*flow.Exec){
		"foreign root": func(e *flow.Exec) { e.Taints = flow.TaintForeignRoot },
		"deleted":      func(e *flow.Exec) { e.Taints = flow.TaintDeleted },
		"too large":    func(e *flow.Exec) { e.File.Size = maxFileSize + 1 },
		"missing":      func(e *flow.Exec) { e.Path = "/missing" },
		"other file":   func(e *flow.Exec) { e.File.Inode++ },
	} {
		exec := l.execs.records[id]
		exec.Exec = flow.ExecID{TGID: 2, Time: exec.Exec.Time + uint64(len(l.execs.records))}
		change(&exec)
		l.execs.records[exec.Exec] = exec
		if got := l.await(exec.Exec); got.SHA256 != "" {
			t.Errorf("%s: %q", name, got.SHA256)
		}
	}
}

// A file that the program's user can write has a hash only where a write does not go
// by unseen.
func TestUntracedFiles(t *testing.T) {
	for magic, want := range map[uint32]string{0: "", 0xEF53: sum("x")} {
		l := newLab(t)
		l.files.magic = magic
		l.read()
		l.write("/tool", "x")
		id := l.start("/tool")
		exec := l.execs.records[id]
		exec.Taints = flow.TaintWritable
		l.execs.records[id] = exec
		if got := l.await(id); got.SHA256 != want {
			t.Errorf("on %#x: %q, want %q", magic, got.SHA256, want)
		}
	}
}

// A file that grows as it is read is not read without end.
func TestGrowingFile(t *testing.T) {
	l := newLab(t)
	l.write("/tool", "x")
	id := l.start("/tool")
	grown := false
	l.files.identified = func() {
		if err := os.Truncate(filepath.Join(l.files.dir, "tool"), 1<<43); err != nil && !grown {
			t.Error(err)
		}
		grown = true
	}
	l.read()
	if got := l.await(id); got.SHA256 != "" || !grown {
		t.Errorf("%q", got.SHA256)
	}
}

// What a connection waits for is not kept up by what nobody asked for, nor by what
// is larger.
func TestUrgentFirst(t *testing.T) {
	l := newLab(t)
	for n := range int64(5) {
		l.reader.want(flow.Image{Path: "/background", File: flow.FileID{Inode: uint64(n), Size: 1}}, false)
		l.reader.want(flow.Image{Path: "/large", File: flow.FileID{Inode: uint64(10 + n), Size: 1000 - n}}, true)
	}
	l.reader.want(flow.Image{Path: "/small", File: flow.FileID{Inode: 20, Size: 900}}, true)
	var order []string
	for j := l.reader.next(); j != nil; j = l.reader.next() {
		if background := !j.urgent; l.reader.putOff(j) != (background && l.reader.urgent > 0) {
			t.Errorf("%s is put off wrongly", j.image.Path)
		}
		order = append(order, j.image.Path)
		l.reader.finish(j, nil)
	}
	if order[0] != "/small" || order[5] != "/large" || order[6] != "/background" || len(order) != 11 || l.reader.urgent != 0 {
		t.Errorf("%d urgent after %q", l.reader.urgent, order)
	}
}

// One sandbox cannot hold more than its share, and an urgent file finds room.
func TestReaderIsBounded(t *testing.T) {
	l := newLab(t)
	for n := range maxWanted + 10 {
		image := flow.Image{Path: "/tool", File: flow.FileID{Inode: uint64(n)}}
		if done := l.reader.want(image, false); (done == nil) != (n >= maxWanted) {
			t.Fatalf("file %d: %v", n, done)
		}
		if again := l.reader.want(image, false); (again == nil) != (n >= maxWanted) {
			t.Fatalf("file %d again: %v", n, again)
		}
	}
	for n := range maxWanted + 10 {
		image := flow.Image{Path: "/tool", File: flow.FileID{Inode: uint64(1000 + n)}}
		if done := l.reader.want(image, true); (done == nil) != (n >= maxWanted) {
			t.Fatalf("urgent file %d: %v", n, done)
		}
	}
	l.read()
	l.reader.want(flow.Image{Path: "/tool", File: flow.FileID{Inode: 1}}, false)
	for l.reader.next() != nil {
		time.Sleep(time.Millisecond)
	}
	l.reader.mu.Lock()
	defer l.reader.mu.Unlock()
	if n := len(l.reader.failed); n > maxWanted || l.reader.urgent != 0 {
		t.Errorf("%d failures are remembered, %d urgent", n, l.reader.urgent)
	}
}

func TestTableIsBoundedInBytes(t *testing.T) {
	b, err := newBounded[int, string](1000, 100)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 500 {
		b.add(n%50, "", 30)
		b.add(n%50, "", 30)
	}
	if b.len() != 3 || b.total != 90 {
		t.Errorf("%d entries, %d bytes", b.len(), b.total)
	}
	b.add(1000, "", 1000) // too large for any, and kept alone
	if _, ok := b.get(1000); !ok || b.len() != 1 {
		t.Errorf("%d entries", b.len())
	}
}

// The first file may be read after its program was looked up for the last time: what
// takes its place is compared with it all the same.
func TestChangedAfterALateRead(t *testing.T) {
	l := newLab(t)
	l.write("/tool", "one")
	first := l.start("/tool")
	l.lookup(first)
	done := l.reader.want(l.execs.records[first].Image, false)
	l.read()
	<-done
	l.write("/tool", "one")
	if got := l.await(l.start("/tool")); got.Taints.Has(flow.TaintChanged) {
		t.Error("the same content in another file is changed")
	}
	l.write("/tool", "two")
	if got := l.await(l.start("/tool")); !got.Taints.Has(flow.TaintChanged) {
		t.Error("another content is not changed")
	}
}

func TestTrustIsBounded(t *testing.T) {
	trust := newTrust(nil, nil)
	hashes, err := NewHashes()
	if err != nil {
		t.Fatal(err)
	}
	accepts := func(path string, inode uint64, sha256 string) bool {
		return trust.accepts(flow.Image{Path: path, File: flow.FileID{Inode: inode}, SHA256: sha256}, true, hashes)
	}
	for n := range maxPaths {
		if !accepts(fmt.Sprint(n), 0, "") {
			t.Fatal(n)
		}
	}
	if accepts("one more", 0, "") {
		t.Error("there is no bound")
	}
	if !accepts("7", 0, "") {
		t.Error("what is known is forgotten")
	}
	trust.forget("7")
	if !accepts("one more", 0, "a") {
		t.Error("there is no room after one was forgotten")
	}
	for n := range 3 * maxFiles {
		if !accepts("one more", uint64(n), "a") {
			t.Error("the same content is refused")
		}
	}
	if n := len(trust.paths["one more"].files); n > maxFiles {
		t.Errorf("%d files are remembered", n)
	}
}
