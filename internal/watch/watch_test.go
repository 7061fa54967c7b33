package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

const (
	quiet = 20 * time.Millisecond
	soon  = 10 * time.Second       // for what must come
	never = 150 * time.Millisecond // for what must not
)

func watching(t *testing.T, dirs ...string) *Watcher {
	t.Helper()
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	for _, dir := range dirs {
		if err := w.Add(dir); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func wait(t *testing.T, w *Watcher, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return w.Wait(ctx, quiet)
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWaitTellsChanges(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(dir string) error
		want   bool
	}{
		{"nothing", func(string) error { return nil }, false},
		{"read", func(dir string) error { _, err := os.ReadFile(filepath.Join(dir, "file")); return err }, false},
		{"list", func(dir string) error { _, err := os.ReadDir(dir); return err }, false},
		{"create", func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o644) }, true},
		{"write", func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), []byte("y"), 0o644) }, true},
		{"remove", func(dir string) error { return os.Remove(filepath.Join(dir, "file")) }, true},
		{"rename over", func(dir string) error { return os.Rename(filepath.Join(dir, "other"), filepath.Join(dir, "file")) }, true},
		{"rename out", func(dir string) error { return os.Rename(filepath.Join(dir, "file"), dir+".out") }, true},
		{"link", func(dir string) error { return os.Symlink("file", filepath.Join(dir, "link")) }, true},
		{"mode", func(dir string) error { return os.Chmod(filepath.Join(dir, "file"), 0o600) }, true},
		{"own mode", func(dir string) error { return os.Chmod(dir, 0o700) }, true},
		{"attribute", func(dir string) error { return unix.Setxattr(dir, "user.x", []byte("1"), 0) }, true},
		{"own name", func(dir string) error { return os.Rename(dir, dir+".moved") }, true},
		{"own end", os.RemoveAll, true},
		{"below a subdirectory", func(dir string) error { return os.WriteFile(filepath.Join(dir, "sub", "new"), nil, 0o644) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dir")
			if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "file"))
			write(t, filepath.Join(dir, "other"))
			w := watching(t, dir)
			if err := test.change(dir); err != nil {
				t.Fatal(err)
			}
			limit := never
			if test.want {
				limit = soon
			}
			if err := wait(t, w, limit); (err == nil) != test.want {
				t.Errorf("wait: %v", err)
			}
		})
	}
}

// A walk closes a descriptor before it opens the next, so both have one name.
func TestDescriptorsShareANumber(t *testing.T) {
	for changed := range 3 {
		dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
		w := watching(t)
		var numbers []int
		for _, dir := range append(dirs, dirs...) {
			fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			err = w.Add("/proc/self/fd/" + strconv.Itoa(fd))
			unix.Close(fd)
			if err != nil {
				t.Fatal(err)
			}
			numbers = append(numbers, fd)
		}
		write(t, filepath.Join(dirs[changed], "new"))
		if err := wait(t, w, soon); err != nil {
			t.Errorf("directory %d of those at descriptors %v: %v", changed, numbers, err)
		}
	}
}

func TestOneDirectoryManyNames(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	w := watching(t, dir, link, dir, dir+"/.", link)
	if len(w.watches) != 1 {
		t.Errorf("%d watches", len(w.watches))
	}
	write(t, filepath.Join(dir, "new"))
	if err := wait(t, w, soon); err != nil {
		t.Error(err)
	}
}

func TestAddRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file)
	w := watching(t)
	for path, want := range map[string]error{
		file:                          unix.ENOTDIR,
		filepath.Join(dir, "nothing"): unix.ENOENT,
		"":                            unix.ENOENT,
	} {
		if err := w.Add(path); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", path, err, want)
		}
	}
	for n := range maxDirs {
		sub := filepath.Join(dir, strconv.Itoa(n))
		if err := errors.Join(os.Mkdir(sub, 0o755), w.Add(sub)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Add(dir); !errors.Is(err, ErrTooMany) {
		t.Errorf("one too many: %v", err)
	}
	if err := w.Add(filepath.Join(dir, "0")); err != nil {
		t.Errorf("one of them again: %v", err)
	}
}

// Wait returns though it never gets quiet.
func TestWaitHasAnEnd(t *testing.T) {
	dir := t.TempDir()
	w := watching(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	noise := make(chan error, 1)
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte(strconv.Itoa(n)), 0o644); err != nil {
				noise <- err
				return
			}
		}
		noise <- nil
	}()
	err := wait(t, w, soon)
	cancel()
	if err := errors.Join(err, <-noise); err != nil {
		t.Error(err)
	}
}

// Wait takes many changes for one.
func TestWaitForQuiet(t *testing.T) {
	dir := t.TempDir()
	w := watching(t, dir)
	for n := range 200 {
		write(t, filepath.Join(dir, fmt.Sprint(n)))
	}
	const long = 10 * quiet // a machine that is busy elsewhere is not quiet yet
	if err := w.Wait(t.Context(), long); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, w, never); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second wait: %v", err)
	}
}

// The kernel's queue is short: 16,384 events as a rule. What it lost count of is a
// change for everybody.
func TestOverflowIsAChange(t *testing.T) {
	h := hub(t)
	w := h.New()
	defer w.Close()
	if err := w.Add(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	overflow := make([]byte, unix.SizeofInotifyEvent)
	binary.NativeEndian.PutUint32(overflow, ^uint32(0))
	binary.NativeEndian.PutUint32(overflow[4:], unix.IN_Q_OVERFLOW)
	h.tell(overflow)
	if err := wait(t, w, soon); err != nil {
		t.Error(err)
	}
}

func hub(t *testing.T) *Hub {
	t.Helper()
	h, err := NewHub()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// Watchers of a hub share the watch of a directory, and each hears of its own alone.
func TestHubTellsWhoWatches(t *testing.T) {
	h := hub(t)
	shared, alone := t.TempDir(), t.TempDir()
	a, b := h.New(), h.New()
	defer b.Close()
	for _, err := range []error{a.Add(shared), b.Add(shared), b.Add(alone)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := watched(h); n != 2 {
		t.Errorf("%d watches of two directories", n)
	}
	write(t, filepath.Join(alone, "new"))
	if err := wait(t, b, soon); err != nil {
		t.Error(err)
	}
	if err := wait(t, a, never); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a change elsewhere: %v", err)
	}
	a.Close() // the shared watch is b's alone now
	write(t, filepath.Join(shared, "new"))
	if err := wait(t, b, soon); err != nil {
		t.Error(err)
	}
	b.Close()
	if n := watched(h); n != 0 {
		t.Errorf("%d watches of nobody", n)
	}
}

func watched(h *Hub) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers)
}

// A directory that ends takes its watch with it; another one gets one of its own.
func TestHubForgetsWhatEnded(t *testing.T) {
	h := hub(t)
	dir := filepath.Join(t.TempDir(), "dir")
	for range 3 {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		w := h.New()
		if err := w.Add(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, w, soon); err != nil {
			t.Error(err)
		}
		w.Close()
	}
}

func TestCloseEndsWait(t *testing.T) {
	w := watching(t, t.TempDir())
	ended := make(chan error, 1)
	go func() { ended <- w.Wait(t.Context(), quiet) }()
	w.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("wait: %v", err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	testenv.CheckLeaks(t, "rf-watch-test")
	for range 20 {
		w, err := New()
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := w.Add(dir); err != nil {
			t.Error(err)
		}
		write(t, filepath.Join(dir, "new")) // an event that nobody takes
		w.Close()
	}
}
