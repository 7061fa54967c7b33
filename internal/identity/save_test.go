package identity

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// saver keeps what is saved, as the agent does: as bytes.
type saver struct {
	t     *testing.T
	saved chan []byte
}

func (s *saver) save(all []Trust) error {
	b, err := EncodeTrust(all)
	if err != nil {
		s.t.Error(err)
	}
	s.saved <- b
	return nil
}

// wait waits until what was saved last is what a condition asks for.
func (s *saver) wait(until func([]Trust) bool) []Trust {
	s.t.Helper()
	for {
		select {
		case b := <-s.saved:
			all, err := DecodeTrust(b)
			if err != nil {
				s.t.Fatal(err)
			}
			if until(all) {
				return all
			}
		case <-time.After(10 * time.Second):
			s.t.Fatal("it was not saved")
		}
	}
}

// hashed reports whether all is known of some paths, and of no other.
func hashed(paths ...string) func([]Trust) bool {
	return func(all []Trust) bool {
		for i, t := range all {
			if i >= len(paths) || t.Path != paths[i] || t.SHA256 == "" {
				return false
			}
		}
		return len(all) == len(paths)
	}
}

// A restart changes nothing: what was used first is that still, and what is known of
// its content need not be read again.
func TestTrustSurvivesARestart(t *testing.T) {
	s := &saver{t, make(chan []byte, 100)}
	before := newLabOf(t, &tree{dir: t.TempDir()}, nil, s.save)
	before.write("/accepted", "old")
	before.write("/same", "same")
	before.write("/tool\xff", "one")
	end := before.read()
	for _, path := range []string{"/accepted", "/same", "/tool\xff"} {
		before.await(before.start(path))
	}
	s.wait(hashed("/accepted", "/same", "/tool\xff"))
	before.Accept("/accepted")
	trusted := s.wait(hashed("/same", "/tool\xff"))
	end()

	restart := func() *lab {
		after := newLabOf(t, &tree{dir: before.files.dir}, trusted, s.save)
		after.read()
		return after
	}
	after := restart()
	if got := after.lookup(after.start("/tool\xff")); got.SHA256 != sum("one") || got.Taints != 0 || after.files.opens.Load() != 0 {
		t.Errorf("the same file: %q, %v, %d opened", got.SHA256, got.Taints.Names(), after.files.opens.Load())
	}
	after = restart()
	after.write("/tool\xff", "two")
	after.write("/same", "same")
	after.write("/accepted", "new")
	other := after.start("/tool\xff")
	if !after.lookup(other).Taints.Has(flow.TaintChanged) || !after.await(other).Taints.Has(flow.TaintChanged) {
		t.Error("another file is not changed")
	}
	if got := after.await(after.start("/same")); got.Taints.Has(flow.TaintChanged) {
		t.Error("the same content in another file is changed")
	}
	if got := after.await(after.start("/accepted")); got.Taints.Has(flow.TaintChanged) {
		t.Error("what the operator accepted is changed")
	}
	after.Accept("/tool\xff")
	if got := after.await(after.start("/tool\xff")); got.Taints.Has(flow.TaintChanged) {
		t.Error("it cannot be accepted after a restart")
	}
}

// Trust is saved at the end, and tried again after an error; an end that finds an error
// ends all the same.
func TestTrustIsSavedAtTheEnd(t *testing.T) {
	calls := make(chan []Trust, 100)
	fail := errors.New("no space left on device")
	results := []error{fail, nil, fail}
	l := newLabOf(t, &tree{dir: t.TempDir()}, nil, func(all []Trust) error {
		calls <- all
		if len(results) == 0 {
			return nil
		}
		err := results[0]
		results = results[1:]
		return err
	})
	end := l.read()
	start := time.Now()
	l.trust.accepts(flow.Image{Path: "/a"}, false, l.reader.hashes)
	for range 2 { // and again
		select {
		case all := <-calls:
			if len(all) != 1 {
				t.Errorf("%v", all)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it was not saved")
		}
	}
	if took := time.Since(start); took < 2*saveEvery {
		t.Errorf("tried again after %v: what cannot be saved is not tried all the time", took)
	}
	l.trust.accepts(flow.Image{Path: "/b"}, false, l.reader.hashes)
	end()
	if all := <-calls; len(all) != 2 {
		t.Errorf("at the end: %v", all)
	}
}

// Many changes are saved together.
func TestTrustIsSavedInBatches(t *testing.T) {
	s := &saver{t, make(chan []byte, 100_000)}
	l := newLabOf(t, &tree{dir: t.TempDir()}, nil, s.save)
	end := l.read()
	start, count := time.Now(), 0
	for time.Since(start) < 200*time.Millisecond {
		count++
		l.trust.accepts(flow.Image{Path: fmt.Sprint(count % maxPaths)}, false, l.reader.hashes)
		l.trust.touch() // as of one more file
	}
	end()
	if most := int(time.Since(start)/saveEvery) + 2; count < 100 || len(s.saved) > most {
		t.Errorf("%d changes are saved %d times", count, len(s.saved))
	}
}

// A hash that comes in after its file was saved is saved as well.
func TestLateHashIsSaved(t *testing.T) {
	s := &saver{t, make(chan []byte, 100)}
	l := newLabOf(t, &tree{dir: t.TempDir()}, nil, s.save)
	l.write("/tool", "one")
	saved := make(chan struct{})
	l.files.opened = func(string) { <-saved }
	l.read()
	l.lookup(l.start("/tool"))
	s.wait(func(all []Trust) bool { return len(all) == 1 && all[0].SHA256 == "" })
	close(saved)
	s.wait(hashed("/tool"))
}

func TestEncodeTrust(t *testing.T) {
	file := flow.FileID{Device: 1, Inode: 1 << 60, CtimeSec: -3, CtimeNsec: 4, Size: 5, FSMagic: 6, Granularity: 7}
	want := []Trust{
		{Path: "", Files: []flow.FileID{{}}},
		{Path: "/a\x00\xff", Files: []flow.FileID{file, {Inode: 2}}, SHA256: sum("x"), Hashable: true},
		{Path: "/b", Files: []flow.FileID{file}, Hashable: true},
	}
	b, err := EncodeTrust(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeTrust(b)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for n := range b { // the cut ones, of which some are fewer entries
		if got, err := DecodeTrust(b[:n]); err != nil && !errors.Is(err, ErrEncoding) || err == nil && len(got) == len(want) {
			t.Errorf("%d bytes: %v, %v", n, got, err)
		}
	}
	if _, err := EncodeTrust([]Trust{{SHA256: "ab"}}); err == nil {
		t.Error("a hash that is none is encoded")
	}
	if n := reflect.TypeFor[flow.FileID]().NumField(); n != 7 {
		t.Errorf("a FileID has %d fields: is the encoding another one?", n)
	}
}

// FuzzDecodeTrust: bytes are read in one way, or not at all.
func FuzzDecodeTrust(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{encodingVersion})
	f.Add([]byte{2})
	f.Add(append([]byte{encodingVersion, 1, 0, 0, 0, 'a', isHashable, 1}, make([]byte, fileSize)...))
	f.Add(append([]byte{encodingVersion, 0, 0, 0, 0, hasHash}, make([]byte, hashSize+1+fileSize)...))
	f.Add([]byte{encodingVersion, 255, 255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := DecodeTrust(b)
		if err != nil {
			return
		}
		again, err := EncodeTrust(all)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x comes back as %x, %v", b, again, err)
		}
		hashes, err := NewHashes()
		if err != nil {
			t.Fatal(err)
		}
		if got := newTrust(all).all(hashes); len(got) != len(all) {
			t.Errorf("%d of %d are trusted", len(got), len(all))
		}
	})
}

func BenchmarkTrusted(b *testing.B) {
	hashes, err := NewHashes()
	if err != nil {
		b.Fatal(err)
	}
	trust := newTrust(nil)
	for n := range maxPaths {
		trust.accepts(flow.Image{Path: fmt.Sprintf("/usr/lib/some/where/program-%d", n), File: flow.FileID{Inode: uint64(n)}}, true, hashes)
	}
	for b.Loop() {
		if _, err := EncodeTrust(trust.all(hashes)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(trust.paths)), "paths")
}
