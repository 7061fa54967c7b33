package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

func config(dir string) Config { return Config{Dir: dir, Log: slog.New(slog.DiscardHandler)} }

// open opens a store, and closes it with the test.
func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func stateDir(t testing.TB) string { return filepath.Join(t.TempDir(), "state") }

func reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, s.cfg)
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// refuses checks that an error is of a kind and says what to do.
func refuses(t *testing.T, err, kind error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, kind) || e.Hint == "" || e.Path == "" {
		t.Errorf("%v is no %v with a hint", err, kind)
	}
}

// items returns all that a store holds, secrets opened.
func items(t testing.TB, s *Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, bucket := range buckets() {
		last := ""
		must(t, s.Each(bucket, "", func(i Item) error {
			if i.Key <= last {
				t.Errorf("%q comes after %q", i.Key, last)
			}
			last = i.Key
			value, err := i.Value, error(nil)
			if i.Secret {
				value, err = s.GetSecret(bucket, i.Key)
			}
			all[string(bucket)+"/"+i.Key] = string(value)
			return err
		}))
	}
	return all
}

func TestStore(t *testing.T) {
	s := open(t, config(stateDir(t)))
	if _, err := s.Get(Sandboxes, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
	must(t, s.Put(Sandboxes, "a", []byte("1")), s.Put(Sandboxes, "\xff\x00", nil), s.Put(Policies, "a", []byte("2")), s.Put(Sandboxes, "a", []byte("3")))
	must(t, s.Put(Trust, "gone", []byte("x")), s.Delete(Trust, "gone"), s.Delete(Trust, "never there"))
	var b Batch
	b.Put(Providers, "p", []byte("first"))
	b.Delete(Providers, "p")
	b.PutSecret(Providers, "p", []byte("token"))
	must(t, s.Write(&b), s.Write(&Batch{}))
	want := map[string]string{"sandboxes/a": "3", "sandboxes/\xff\x00": "", "policies/a": "2", "providers/p": "token"}
	for range 2 {
		if diff := cmp.Diff(want, items(t, s)); diff != "" {
			t.Error(diff)
		}
		if value, err := s.Get(Sandboxes, "\xff\x00"); err != nil || value == nil || len(value) != 0 {
			t.Errorf("%q, %v", value, err)
		}
		s = reopen(t, s)
	}
}

// All of a batch is done, or nothing.
func TestBatchIsAtomic(t *testing.T) {
	cfg := config(stateDir(t))
	cfg.MaxKeys, cfg.MaxValue = 3, 100
	s := open(t, cfg)
	must(t, s.Put(Trust, "a", nil))
	for name, spoil := range map[string]func(*Batch){
		"too many keys":   func(b *Batch) { b.Put(Trust, "c", nil); b.Put(Trust, "d", nil) },
		"too large":       func(b *Batch) { b.Put(Trust, "a", make([]byte, 101)) },
		"a secret is too": func(b *Batch) { b.PutSecret(Trust, "a", make([]byte, 101)) },
		"no bucket":       func(b *Batch) { b.Put("other", "a", nil) },
		"header":          func(b *Batch) { b.Put(headerBucket, "x", nil) },
		"no key":          func(b *Batch) { b.Delete(Trust, "") },
		"a long key":      func(b *Batch) { b.Put(Trust, strings.Repeat("k", MaxKey+1), nil) },
	} {
		var b Batch
		b.Put(Trust, "b", []byte("new"))
		b.Put(Policies, "b", []byte("new"))
		spoil(&b)
		if err := s.Write(&b); !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrBucket) {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(map[string]string{"trust/a": ""}, items(t, s)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// At the bounds, and over what is there already.
	must(t, s.Put(Trust, "b", make([]byte, 100)), s.Put(Trust, strings.Repeat("k", MaxKey), nil), s.Put(Trust, "b", nil), s.Delete(Trust, "a"), s.Put(Trust, "c", nil))
	reopen(t, s)
}

func TestEach(t *testing.T) {
	s := open(t, config(stateDir(t)))
	var b Batch
	var want []string
	for n := range 3*eachAtOnce + 5 {
		key := fmt.Sprintf("%04d", n)
		want = append(want, key)
		b.Put(Sandboxes, key, []byte(key))
	}
	must(t, s.Write(&b))
	for _, after := range []string{"", "0007", "0007x", "0100", "9"} {
		var got []string
		must(t, s.Each(Sandboxes, after, func(i Item) error {
			got = append(got, i.Key)
			return s.Put(Sandboxes, i.Key, []byte("again")) // it holds nothing that a write waits for
		}))
		var rest []string
		for _, key := range want {
			if key > after {
				rest = append(rest, key)
			}
		}
		if diff := cmp.Diff(rest, got); diff != "" {
			t.Errorf("after %q: %s", after, diff)
		}
	}
	stop, calls := errors.New("stop"), 0
	if err := s.Each(Sandboxes, "", func(Item) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%v after %d", err, calls)
	}
	must(t, s.Each(Policies, "", func(Item) error { return stop }))
	if err := s.Each("other", "", func(Item) error { return nil }); !errors.Is(err, ErrBucket) {
		t.Errorf("another bucket: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := open(t, config(stateDir(t)))
	var users sync.WaitGroup
	for n := range 4 {
		users.Go(func() {
			key := fmt.Sprint(n)
			for i := range 25 {
				want := fmt.Sprint(i)
				if err := s.Put(Trust, key, []byte(want)); err != nil {
					t.Error(err)
				}
				if got, err := s.Get(Trust, key); err != nil || string(got) != want {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
	users.Wait()
	if len(items(t, s)) != 4 {
		t.Errorf("%v", items(t, s))
	}
}

func TestClosed(t *testing.T) {
	s, err := Open(config(stateDir(t)))
	must(t, err, s.Close(), s.Close())
	if err := s.Put(Trust, "a", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if _, err := s.Get(Trust, "a"); !errors.Is(err, ErrClosed) {
		t.Errorf("read: %v", err)
	}
}

func TestSecondOpener(t *testing.T) {
	cfg := config(stateDir(t))
	first := open(t, cfg)
	_, err := Open(cfg)
	refuses(t, err, ErrInUse)
	must(t, first.Put(Trust, "a", nil))
	reopen(t, first)
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, make := range map[string]func(path string) error{
		"for others": func(path string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o750)) },
		"a file":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a link": func(path string) error {
			return errors.Join(os.Mkdir(path+".target", 0o700), os.Symlink(path+".target", path))
		},
		"of another": func(path string) error {
			return errors.Join(os.Mkdir(path, 0o700), os.Chown(path, 65534, 65534))
		},
	} {
		path := filepath.Join(dir, name)
		if err := make(path); errors.Is(err, os.ErrPermission) {
			continue // without root
		} else if err != nil {
			t.Fatal(err)
		}
		if s, err := Open(config(path)); err == nil {
			t.Errorf("%s is taken", name)
			_ = s.Close()
		} else if entries, _ := os.ReadDir(path); len(entries) != 0 {
			t.Errorf("%s holds %v", name, entries)
		}
	}
	path := filepath.Join(dir, "missing", "state")
	open(t, config(path))
	for name, mode := range map[string]os.FileMode{"": os.ModeDir | 0o700, fileName: 0o600, keyName: 0o600, lockName: 0o600} {
		if info, err := os.Stat(filepath.Join(path, name)); err != nil || info.Mode() != mode {
			t.Errorf("%q: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestFileForOthers(t *testing.T) {
	s := open(t, config(stateDir(t)))
	must(t, s.Close(), os.Chmod(s.path, 0o640))
	_, err := Open(s.cfg)
	refuses(t, err, ErrUnsafe)
}

// What a newer release has written is refused, and left as it is.
func TestNewerFormat(t *testing.T) {
	s := open(t, config(stateDir(t)))
	must(t, s.Put(Trust, "a", nil))
	next := s.header.clone()
	next.Format = Format + 1
	must(t, s.db.Update(func(tx *bbolt.Tx) error { return putHeader(tx, &next) }), s.Close())
	before, err := os.ReadFile(s.path)
	must(t, err)
	_, err = Open(s.cfg)
	refuses(t, err, ErrNewer)
	if after, err := os.ReadFile(s.path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was changed, %v", err)
	}
}

// The first start may end at any instant.
func TestHalfMade(t *testing.T) {
	dir := stateDir(t)
	must(t, os.Mkdir(dir, 0o700))
	for _, name := range []string{keyName, fileName} {
		must(t, os.WriteFile(filepath.Join(dir, name+".new"), []byte("half"), 0o600))
	}
	s := open(t, config(dir))
	must(t, s.PutSecret(Providers, "p", []byte("token")))
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 3 {
		t.Errorf("%q, %v", names, err)
	}
	// The key was made, and the file was not.
	must(t, s.Close(), os.Remove(s.path))
	open(t, s.cfg)
}

func TestFileIsBounded(t *testing.T) {
	cfg := config(stateDir(t))
	cfg.MaxBytes = 4 << 20
	s := open(t, cfg)
	var err error
	n := 0
	for ; err == nil && n < 200; n++ {
		err = s.Put(Trust, fmt.Sprint(n), make([]byte, 50_000))
	}
	if !errors.Is(err, ErrTooLarge) {
		t.Fatalf("after %d: %v", n, err)
	}
	if got := len(items(t, s)); got != n-1 || n < 5 {
		t.Errorf("%d values of %d", got, n-1)
	}
	must(t, s.Delete(Trust, "0"), s.Put(Trust, "small", nil))
	s = reopen(t, s)
	must(t, s.Close())
	cfg.MaxBytes = 1 << 20
	_, err = Open(cfg)
	refuses(t, err, ErrTooLarge)
}

func BenchmarkPut(b *testing.B) {
	for name, dir := range map[string]string{"disk": b.TempDir(), "tmpfs": "/dev/shm"} {
		b.Run(name, func(b *testing.B) {
			at, err := os.MkdirTemp(dir, "bench")
			must(b, err)
			defer os.RemoveAll(at)
			must(b, os.Chmod(at, 0o700))
			s := open(b, config(at))
			n := 0
			for b.Loop() {
				must(b, s.Put(Sandboxes, fmt.Sprint(n%500), make([]byte, 1000)))
				n++
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	s := open(b, config(stateDir(b)))
	var batch Batch
	for n := range 500 {
		batch.Put(Sandboxes, fmt.Sprint(n), make([]byte, 2000))
		batch.Put(Trust, fmt.Sprint(n), make([]byte, 20_000))
	}
	must(b, s.Write(&batch))
	for b.Loop() {
		s = reopen(b, s)
	}
}
