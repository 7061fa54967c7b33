package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// sample makes a file with branches, large values, free pages and a bucket within a
// page. It returns the file, its key and what it holds.
func sample(t testing.TB, entries int) (file, key []byte, want map[string]string) {
	s := open(t, config(stateDir(t)))
	for round := range 2 { // so that pages become free
		var b Batch
		for n := range entries {
			b.Put(Trust, fmt.Sprintf("key %d", n), bytes.Repeat([]byte{byte(n)}, 50+round))
		}
		b.Put(Sandboxes, "large", bytes.Repeat([]byte{'L'}, 10_000))
		b.PutSecret(Providers, "p", []byte("token"))
		must(t, s.Write(&b))
	}
	must(t, s.Delete(Trust, "key 7"))
	want = items(t, s)
	must(t, s.Close())
	file, err := os.ReadFile(s.path)
	must(t, err)
	key, err = os.ReadFile(filepath.Join(s.cfg.Dir, keyName))
	must(t, err)
	return file, key, want
}

// judge opens a file that may be broken. It is refused and left as it is, or tells
// what was written and can be written to. It reports which.
func judge(t *testing.T, dir string, file, key []byte, want map[string]string) (taken bool) {
	t.Helper()
	path := filepath.Join(dir, fileName)
	must(t, os.RemoveAll(dir), os.Mkdir(dir, 0o700))
	must(t, os.WriteFile(path, file, 0o600), os.WriteFile(filepath.Join(dir, keyName), key, 0o600))
	s, err := Open(config(dir))
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrBroken) || e.Path != path || e.Hint == "" {
			t.Errorf("%v", err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, file) {
			t.Errorf("it was changed, %v", err)
		}
		return false
	}
	if diff := cmp.Diff(want, items(t, s)); diff != "" {
		t.Error(diff)
	}
	must(t, s.Put(Trust, "new", make([]byte, 9000)), s.Put(Policies, "new", nil), s.Delete(Trust, "key 3"), s.Close())
	s, err = Open(config(dir))
	must(t, err)
	if got := items(t, s); len(got) != len(want)+1 {
		t.Errorf("%d values, %d before", len(got), len(want))
	}
	must(t, s.Close())
	return true
}

func TestBrokenAtRandom(t *testing.T) {
	file, key, want := sample(t, 400)
	dir := filepath.Join("/dev/shm", filepath.Base(filepath.Dir(t.TempDir())))
	defer os.RemoveAll(dir)
	if !judge(t, dir, file, key, want) {
		t.Fatal("the whole one is refused")
	}
	page := os.Getpagesize()
	pages := len(file) / page
	count := map[string][2]int{}
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := bytes.Clone(file)
		kind := ""
		switch seed % 6 {
		case 0:
			kind = "a byte"
			b[r.IntN(len(b))] ^= byte(1 + r.IntN(255))
		case 1:
			kind = "a byte of a page's head"
			b[r.IntN(pages)*page+r.IntN(64)] ^= 1 << r.IntN(8)
		case 2:
			kind = "some bytes"
			for range 1 + r.IntN(20) {
				b[r.IntN(len(b))] = byte(r.Uint32())
			}
		case 3:
			kind = "an empty page"
			clear(b[r.IntN(pages)*page:][:page])
		case 4:
			kind = "a page in another's place"
			copy(b[r.IntN(pages)*page:][:page], file[r.IntN(pages)*page:])
		case 5:
			kind = "cut"
			b = b[:r.IntN(len(b))]
		}
		c := count[kind]
		if judge(t, dir, b, key, want) {
			c[0]++
		} else {
			c[1]++
		}
		count[kind] = c
		if t.Failed() {
			t.Fatalf("%s, seed %d", kind, seed)
		}
	}
	for kind, c := range count {
		t.Logf("%s: %d taken, %d refused", kind, c[0], c[1])
		if c[1] == 0 {
			t.Errorf("%s is never refused", kind)
		}
	}
}

// What chance seldom breaks, and what would make the library go on for ever, write over
// what is in use, or miss what there is.
func TestBrokenOnPurpose(t *testing.T) {
	file, key, want := sample(t, 400)
	size := os.Getpagesize()
	dir := stateDir(t)
	put := binary.NativeEndian.PutUint64
	for name, test := range map[string]struct {
		flags uint64
		spoil func(page []byte)
		says  string
	}{
		"a page below itself":      {branchPage, func(p []byte) { put(p[pageHeader+8:], u64(p)) }, "used twice"},
		"a page in two places":     {branchPage, func(p []byte) { put(p[pageHeader+element+8:], u64(p[pageHeader+8:])) }, "used twice"},
		"branches out of order":    {branchPage, func(p []byte) { p[pageHeader+element+u32(p[pageHeader+element:])] = 1 }, "not in order"},
		"no branches":              {branchPage, func(p []byte) { p[10], p[11] = 0, 0 }, "is empty"},
		"a page of no kind":        {branchPage, func(p []byte) { p[8] = 0x08 }, "of the kind"},
		"a root that is no branch": {branchPage, func(p []byte) { p[8] = leafPage }, ""},
		"fewer keys":               {leafPage, func(p []byte) { p[10]-- }, "has 398 values"},
		"keys out of order":        {leafPage, func(p []byte) { p[pageHeader+element+u32(p[pageHeader+element+4:])] = 1 }, "not in order"},
		"a key too long":           {leafPage, func(p []byte) { p[pageHeader+11] = 1 }, "beyond its end"},
		"a value too long":         {leafPage, func(p []byte) { p[pageHeader+15] = 1 }, "beyond its end"},
		"a bucket in a bucket":     {leafPage, func(p []byte) { p[pageHeader] = bucketElement }, "of the kind"},
		"no bucket in the root":    {leafPage, func(p []byte) { p[pageHeader] = 0 }, "of the kind"},
		"a used page is free":      {freelistPage, func(p []byte) { put(p[pageHeader:], u64(p)) }, "is free, and used"},
		"a page is free twice":     {freelistPage, func(p []byte) { put(p[pageHeader:], u64(p[pageHeader+8:])) }, "is free, and used"},
		"many are free":            {freelistPage, func(p []byte) { p[10], p[11] = 0xff, 0xff; put(p[pageHeader:], 1<<40) }, "free pages of"},
		"it goes on":               {leafPage, func(p []byte) { p[12] = 0xff }, "beyond the end"},
	} {
		t.Run(name, func(t *testing.T) {
			found := false
			for at := 2 * size; at < len(file); at += size {
				if u16(file[at+8:]) != test.flags || u16(file[at+10:]) < 2 {
					continue
				}
				b := bytes.Clone(file)
				test.spoil(b[at:])
				_, err := read(b, size)
				found = found || err != nil && strings.Contains(err.Error(), test.says)
				judge(t, dir, b, key, want)
			}
			if !found {
				t.Errorf("no page is refused because it %q", test.says)
			}
		})
	}
}

// FuzzRead: whatever stands in the file, it is read to an end; and where it is taken,
// it tells what was written, and the library underneath lives with it.
func FuzzRead(f *testing.F) {
	file, key, want := sample(f, 40)
	f.Add(uint32(0), []byte{}, uint32(0))
	f.Add(uint32(0), []byte{}, uint32(1))
	f.Add(uint32(4096+16+16), []byte{1}, uint32(0))
	f.Add(uint32(3*4096+8), []byte{1, 0, 255, 255}, uint32(0))
	f.Add(uint32(2*4096+12), []byte{255, 255, 255, 255}, uint32(0))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut uint32) {
		b := bytes.Clone(file)
		copy(b[int(at)%len(b):], patch)
		b = b[:len(b)-int(cut)%len(b)]
		if _, err := read(b, os.Getpagesize()); err == nil && !bytes.Equal(b, file) {
			dir, err := os.MkdirTemp("/dev/shm", "store")
			must(t, err)
			defer os.RemoveAll(dir)
			judge(t, dir, b, key, want)
		}
		// Bytes of any kind, and of a small page.
		_, _ = read(patch, 128)
	})
}

// The library does not find out by itself: it panics, or tells less. What is looked at
// before is what keeps that off, and what is done while it is open is caught.
func TestBrokenWhileOpen(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"cut": func(path string) error { return os.Truncate(path, 2*int64(os.Getpagesize())) },
		"overwritten": func(path string) error {
			file, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			page := int64(os.Getpagesize())
			_, err = file.WriteAt(bytes.Repeat([]byte{0xff}, int(30*page)), 2*page)
			return errors.Join(err, file.Close())
		},
	} {
		for op, do := range map[string]func(*Store) error{
			"read":  func(s *Store) error { _, err := s.Get(Trust, "key 5"); return err },
			"each":  func(s *Store) error { return s.Each(Trust, "", func(Item) error { return nil }) },
			"write": func(s *Store) error { return s.Put(Trust, "key 5", make([]byte, 20_000)) },
		} {
			t.Run(name+" "+op, func(t *testing.T) {
				file, key, _ := sample(t, 400)
				dir := stateDir(t)
				must(t, os.Mkdir(dir, 0o700))
				must(t, os.WriteFile(filepath.Join(dir, fileName), file, 0o600), os.WriteFile(filepath.Join(dir, keyName), key, 0o600))
				s, err := Open(config(dir))
				must(t, err, spoil(s.path))
				done := make(chan struct{})
				go func() {
					defer close(done)
					for range 3 { // the second finds what the first has left behind
						refuses(t, do(s), ErrBroken)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}()
				select {
				case <-done:
				case <-time.After(10 * time.Second):
					t.Fatal("it hangs")
				}
			})
		}
	}
}

// A full disk is an error. What was there is there, and with room again all goes on.
func TestFullDisk(t *testing.T) {
	testenv.Require(t)
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k,mode=0700"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, config(dir))
	must(t, s.PutSecret(Providers, "p", []byte("token")))
	want := map[string]string{"providers/p": "token"}
	refused := 0
	for n := range 200 {
		key, value := fmt.Sprint(n), bytes.Repeat([]byte{'v'}, 10_000)
		if err := s.Put(Sandboxes, key, value); err != nil {
			refused++
			refuses(t, err, unix.ENOSPC)
			continue
		}
		want["sandboxes/"+key] = string(value)
	}
	if refused < 10 || len(want) < 10 {
		t.Fatalf("%d refused, %d taken", refused, len(want))
	}
	if diff := cmp.Diff(want, items(t, s)); diff != "" {
		t.Error(diff)
	}
	must(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=4m"))
	must(t, s.Put(Sandboxes, "more", make([]byte, 100_000)))
	s = reopen(t, s)
	if got := len(items(t, s)); got != len(want)+1 {
		t.Errorf("%d values", got)
	}
	t.Logf("%d refused, %d taken", refused, len(want))
}
