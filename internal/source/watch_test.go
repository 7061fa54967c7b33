package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/testenv"
)

const (
	soon  = 20 * time.Second // for what must come
	never = 5 * quiet        // for what must not
)

// follower is a Watch at work, and what it has told.
type follower struct {
	t       *testing.T
	told    chan string
	reports chan error
	stop    func()
}

// follow watches a set from its present content on. between, if there is one, is
// what happens after that was read.
func follow(t *testing.T, set Set, between func()) *follower {
	t.Helper()
	return followBy(t, set, NewGuard(set).Read, between)
}

// readAny is a guard that minds nothing.
func (s Set) readAny() Reading {
	content, err := s.Read()
	return Reading{content, err}
}

func followBy(t *testing.T, set Set, read func() Reading, between func()) *follower {
	t.Helper()
	now := read()
	must(t, now.Err)
	if between != nil {
		between()
	}
	ctx, cancel := context.WithCancel(t.Context())
	f := &follower{t: t, told: make(chan string, 100), reports: make(chan error, 100)}
	ended := make(chan error, 1)
	go func() {
		ended <- set.Watch(ctx, now, read,
			func(r Reading) { f.told <- describe(r.Content, r.Err) },
			func(err error) { f.reports <- err })
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

// describe is the texts of a content, or the last part of an error.
func describe(c Content, err error) string {
	if err != nil {
		return "error: " + err.Error()[strings.LastIndex(err.Error(), ": ")+2:]
	}
	var texts []string
	for _, s := range append(c.Policies, c.Modules...) {
		if len(s.Data) < 100 { // the shipped ones are longer
			texts = append(texts, string(s.Data))
		}
	}
	return strings.Join(texts, " ")
}

// want waits until this is told, and nothing else before.
func (f *follower) want(what string) {
	f.t.Helper()
	select {
	case got := <-f.told:
		if got != what {
			f.t.Errorf("told %q, want %q", got, what)
		}
	case <-time.After(soon):
		f.t.Errorf("nothing was told, want %q", what)
	}
}

func (f *follower) wantNothing() {
	f.t.Helper()
	select {
	case got := <-f.told:
		f.t.Errorf("told %q, want nothing", got)
	case <-time.After(never):
	}
}

// replace puts a file or link in another's place, as one step.
func replace(t *testing.T, path string, create func(path string) error) {
	t.Helper()
	temporary := filepath.Join(filepath.Dir(path), ".new")
	must(t, errors.Join(create(temporary), os.Rename(temporary, path)))
}

func text(s string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(s), 0o644) }
}

func link(to string) func(string) error {
	return func(path string) error { return os.Symlink(to, path) }
}

// fixed returns a directory whose path has no link in it.
func fixed(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	return dir
}

func TestWatchFile(t *testing.T) {
	dir := fixed(t)
	path := filepath.Join(dir, "etc", "p.yaml")
	write(t, path, "one")
	f := follow(t, Set{Specs: []string{"default", path}}, nil)

	write(t, path, "two") // in place
	f.want("two")
	replace(t, path, text("three")) // as an editor does
	f.want("three")
	must(t, os.Remove(path))
	f.want("error: no such file or directory")
	write(t, path, "three") // what it was before the error is told again
	f.want("three")

	must(t, os.Rename(filepath.Dir(path), filepath.Join(dir, "old")))
	f.want("error: no such file or directory")
	write(t, filepath.Join(dir, "old", "p.yaml"), "elsewhere")
	write(t, path, "four")
	f.want("four")
	write(t, path, "five") // in the directory that was not there before
	f.want("five")

	write(t, filepath.Join(dir, "new", "p.yaml"), "six")
	must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "new"), unix.AT_FDCWD, filepath.Dir(path), unix.RENAME_EXCHANGE))
	f.want("six")
	f.wantNothing()
}

func TestWatchTellsNothingNew(t *testing.T) {
	path := filepath.Join(fixed(t), "p.yaml")
	write(t, path, "one")
	f := follow(t, Set{Specs: []string{path}}, nil)
	replace(t, path, text("one"))
	write(t, path, "one")
	write(t, path+".other", "two")
	must(t, os.Chmod(path, 0o600))
	f.wantNothing()
	write(t, path, "two")
	f.want("two")
}

// What changes between the first Reading and Watch is told.
func TestWatchFromContent(t *testing.T) {
	path := filepath.Join(fixed(t), "p.yaml")
	write(t, path, "one")
	f := follow(t, Set{Specs: []string{path}}, func() { write(t, path, "two") })
	f.want("two")
	f.wantNothing()
}

// A file that is written bit by bit is told when it is whole.
func TestWatchHalfWritten(t *testing.T) {
	path := filepath.Join(fixed(t), "p.yaml")
	write(t, path, "one")
	f := follow(t, Set{Specs: []string{path}}, nil)
	file, err := os.Create(path)
	must(t, err)
	last, longest := time.Now(), time.Duration(0)
	for range 8 {
		_, err := file.WriteString("two ")
		must(t, err)
		longest = max(longest, time.Since(last))
		last = time.Now()
		time.Sleep(quiet / 10)
	}
	must(t, file.Close())
	if longest > quiet/2 {
		t.Skipf("skip: this machine paused the writer for %v", longest)
	}
	f.want(strings.Repeat("two ", 8))
	f.wantNothing()
}

// A ConfigMap's files are links to ..data/file, and ..data is a link that is turned
// to a new directory when the map changes.
func TestWatchConfigMap(t *testing.T) {
	dir := fixed(t)
	mount := filepath.Join(dir, "mount")
	version := func(name, yaml, rego string) {
		write(t, filepath.Join(mount, name, "p.yaml"), yaml)
		write(t, filepath.Join(mount, name, "a.rego"), rego)
		replace(t, filepath.Join(mount, "..data"), link(name))
	}
	version("..1", "p1", "a1")
	must(t, errors.Join(
		os.Symlink("..data/p.yaml", filepath.Join(mount, "p.yaml")),
		os.Symlink("..data/a.rego", filepath.Join(mount, "a.rego"))))
	// And the file may be reached by further links.
	must(t, errors.Join(os.Mkdir(filepath.Join(dir, "etc"), 0o755), os.Symlink(mount, filepath.Join(dir, "etc", "cur")),
		os.Symlink("cur/p.yaml", filepath.Join(dir, "etc", "p.yaml"))))

	f := follow(t, Set{Specs: []string{filepath.Join(dir, "etc", "p.yaml")}, RegoDir: mount}, nil)
	version("..2", "p2", "a2")
	must(t, os.RemoveAll(filepath.Join(mount, "..1")))
	f.want("p2 a2")
	version("..3", "p3", "a3")
	must(t, os.RemoveAll(filepath.Join(mount, "..2")))
	f.want("p3 a3")
	write(t, filepath.Join(dir, "more", "p.yaml"), "p4")
	replace(t, filepath.Join(dir, "etc", "cur"), link("../more"))
	f.want("p4 a3")
	f.wantNothing()
}

func TestWatchRegoDir(t *testing.T) {
	dir := filepath.Join(fixed(t), "rego")
	far := filepath.Join(filepath.Dir(dir), "far", "deep", "module")
	write(t, filepath.Join(dir, "a.rego"), "a")
	write(t, far, "far")
	f := follow(t, Set{RegoDir: dir}, nil)
	write(t, filepath.Join(dir, "b.rego"), "b")
	f.want("a b")
	write(t, filepath.Join(dir, "b_test.rego"), "test")
	f.wantNothing()
	must(t, os.Symlink("../far/deep/module", filepath.Join(dir, "c.rego")))
	f.want("a b far")
	write(t, far, "farther") // a directory off the set's own
	f.want("a b farther")
	must(t, os.RemoveAll(dir))
	f.want("error: no such file or directory")
	must(t, os.Mkdir(dir, 0o755))
	f.want("error: " + dir + " has no Rego modules")
	write(t, filepath.Join(dir, "d.rego"), "d")
	f.want("d")
}

// A path is the kernel's: ".." behind a link is not the directory of the link.
func TestWatchRelativePath(t *testing.T) {
	dir := fixed(t)
	write(t, filepath.Join(dir, "real", "p.yaml"), "one")
	write(t, filepath.Join(dir, "p.yaml"), "another")
	must(t, errors.Join(os.MkdirAll(filepath.Join(dir, "real", "wd"), 0o755), os.Symlink("real/wd", filepath.Join(dir, "link"))))
	t.Chdir(filepath.Join(dir, "link")) // sets PWD, as a shell does
	f := follow(t, Set{Specs: []string{"../p.yaml"}, RegoDir: "../rego/"}.with(t, filepath.Join(dir, "real", "rego", "a.rego")), nil)
	write(t, filepath.Join(dir, "p.yaml"), "another still")
	f.wantNothing()
	write(t, filepath.Join(dir, "real", "p.yaml"), "two")
	f.want("two a")
	write(t, filepath.Join(dir, "real", "rego", "a.rego"), "b")
	f.want("two b")
}

// with is the set after a module was written.
func (s Set) with(t *testing.T, module string) Set {
	write(t, module, "a")
	return s
}

// In a directory that is never quiet, changes are told too.
func TestWatchInNoise(t *testing.T) {
	dir := fixed(t)
	path := filepath.Join(dir, "p.yaml")
	write(t, path, "one")
	f := follow(t, Set{Specs: []string{path}}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	silent := make(chan error, 1)
	go func() {
		var err error
		for err == nil && ctx.Err() == nil {
			err = os.WriteFile(filepath.Join(dir, "log"), nil, 0o644)
			sleep(ctx, time.Millisecond)
		}
		silent <- err
	}()
	write(t, path, "two")
	f.want("two")
	cancel()
	must(t, <-silent)
}

// Through procfs nothing can be watched, so Watch looks.
func TestWatchLooks(t *testing.T) {
	dir := fixed(t)
	write(t, filepath.Join(dir, "p.yaml"), "one")
	t.Chdir(dir)
	set := Set{Specs: []string{"/proc/self/cwd/p.yaml"}}
	if r := NewGuard(set).Read(); !errors.Is(r.Err, rootfs.ErrProc) {
		t.Errorf("a guard reads through procfs: %v", r.Err)
	}
	f := followBy(t, set, set.readAny, nil)
	for _, text := range []string{"two", "three"} {
		write(t, filepath.Join(dir, "p.yaml"), text)
		f.want(text)
	}
	f.stop()
	if err := <-f.reports; !strings.Contains(err.Error(), "now looking every 2s") || len(f.reports) > 0 {
		t.Errorf("reported %v, and %d more", err, len(f.reports))
	}
}

func TestWatchNothing(t *testing.T) {
	testenv.CheckLeaks(t, "rf-source-test")
	for _, set := range []Set{{}, {Specs: []string{"default"}}} {
		follow(t, set, nil).stop()
	}
}

func TestWatchLeavesNothing(t *testing.T) {
	testenv.CheckLeaks(t, "rf-source-test")
	path := filepath.Join(fixed(t), "p.yaml")
	write(t, path, "one")
	f := follow(t, Set{Specs: []string{path}}, nil)
	for _, text := range []string{"two", "three"} {
		write(t, path, text)
		f.want(text)
	}
	f.stop()
}

// A content that comes and goes while it is read is waited for, but not for ever.
func TestSettle(t *testing.T) {
	content := func(name string) Reading { return Reading{Content: Content{Policies: []policy.Source{{Name: name}}}} }
	failed := Reading{Err: errors.New("gone")}
	last := content("a")
	for _, test := range []struct {
		name  string
		reads []Reading // the last one again and again
		want  Reading
		count int
	}{
		{"the same", []Reading{last}, last, 1},
		{"another", []Reading{content("b")}, content("b"), 2},
		{"half written", []Reading{content("b"), content("bc"), content("bcd")}, content("bcd"), 4},
		{"gone for a moment", []Reading{failed, last}, last, 2},
		{"gone", []Reading{failed}, failed, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			count := 0
			got := settle(t.Context(), func() Reading {
				count++
				return test.reads[min(count, len(test.reads))-1]
			}, last)
			if !got.equal(test.want) || count != test.count {
				t.Errorf("%+v after %d reads", got, count)
			}
		})
	}
	count := 0
	settle(t.Context(), func() Reading { count++; return content(strings.Repeat("x", count)) }, last)
	if count != maxLooks+1 {
		t.Errorf("%d reads of what never settles", count)
	}
}
