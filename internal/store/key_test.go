package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

func TestSecrets(t *testing.T) {
	s := open(t, config(stateDir(t)))
	must(t, s.PutSecret(Providers, "p", []byte("a token of nobody's")), s.Put(Providers, "plain", []byte("plain")), s.PutSecret(Providers, "empty", nil))
	if _, err := s.Get(Providers, "p"); !errors.Is(err, ErrSealed) {
		t.Errorf("a secret is read: %v", err)
	}
	if _, err := s.GetSecret(Providers, "plain"); !errors.Is(err, ErrSealed) {
		t.Errorf("what is none is: %v", err)
	}
	must(t, s.Each(Providers, "", func(i Item) error {
		if i.Secret != (i.Key != "plain") || i.Secret && i.Value != nil {
			t.Errorf("%+v", i)
		}
		return nil
	}))
	if got, err := s.GetSecret(Providers, "empty"); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	s = reopen(t, s)
	if got, err := s.GetSecret(Providers, "p"); err != nil || string(got) != "a token of nobody's" {
		t.Errorf("%q, %v", got, err)
	}
	text, err := os.ReadFile(s.path)
	if err != nil || bytes.Contains(text, []byte("token of")) || !bytes.Contains(text, []byte("plain")) {
		t.Errorf("the file shows it, %v", err)
	}
}

// meddle writes a value as whoever can write the file would, with all sums right.
func meddle(t *testing.T, s *Store, bucket Bucket, key string, kind byte, value []byte) {
	t.Helper()
	next := s.header.clone()
	must(t, s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		tally := next.Buckets[bucket]
		if old := b.Get([]byte(key)); old != nil {
			tally.add(-1, old)
		}
		raw := encode(kind, bucket, key, value)
		tally.add(1, raw)
		next.Buckets[bucket] = tally
		return errors.Join(b.Put([]byte(key), raw), putHeader(tx, &next))
	}))
	s.header = next
}

// A sealed value opens where it was put, as it was put, and nowhere else.
func TestSealedValuesAreBound(t *testing.T) {
	s := open(t, config(stateDir(t)))
	must(t, s.PutSecret(Providers, "p", []byte("token")), s.PutSecret(Providers, "q", []byte("other")))
	_, sealed, err := s.get(Providers, "p")
	must(t, err)
	spoilt := bytes.Clone(sealed)
	spoilt[len(spoilt)-1] ^= 1
	for name, test := range map[string]struct {
		bucket Bucket
		key    string
		sealed []byte
	}{
		"exchanged":      {Providers, "q", sealed},
		"another bucket": {Keys, "p", sealed},
		"spoilt":         {Providers, "p", spoilt},
		"cut":            {Providers, "p", sealed[:len(sealed)-1]},
		"short":          {Providers, "p", sealed[:5]},
		"empty":          {Providers, "p", nil},
	} {
		meddle(t, s, test.bucket, test.key, sealedValue, test.sealed)
		s = reopen(t, s)
		if got, err := s.GetSecret(test.bucket, test.key); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// A name and its bucket cannot be cut in another way.
	if bytes.Equal(place("ab", "c"), place("a", "bc")) {
		t.Error("two places are one")
	}
	meddle(t, s, Providers, "p", sealedValue, sealed)
	if got, err := s.GetSecret(Providers, "p"); err != nil || string(got) != "token" {
		t.Errorf("the right one: %q, %v", got, err)
	}
}

func TestKeyFile(t *testing.T) {
	s := open(t, config(stateDir(t)))
	must(t, s.PutSecret(Providers, "p", []byte("token")), s.Close())
	path := filepath.Join(s.cfg.Dir, keyName)
	key, err := os.ReadFile(path)
	must(t, err)
	if len(key) != keySize {
		t.Fatalf("%d bytes", len(key))
	}
	state, err := os.ReadFile(s.path)
	must(t, err)
	other := bytes.Clone(key)
	other[0] ^= 1
	for name, test := range map[string]struct {
		spoil func() error
		want  error
	}{
		"missing":    {func() error { return os.Remove(path) }, ErrKey},
		"another":    {func() error { return os.WriteFile(path, other, 0o600) }, ErrKey},
		"short":      {func() error { return os.WriteFile(path, key[:31], 0o600) }, ErrKey},
		"empty":      {func() error { return os.WriteFile(path, nil, 0o600) }, ErrKey},
		"long":       {func() error { return os.WriteFile(path, append(bytes.Clone(key), 0), 0o600) }, ErrKey},
		"for others": {func() error { return os.Chmod(path, 0o604) }, ErrUnsafe},
		"of another": {func() error { return os.Chown(path, 65534, 0) }, ErrUnsafe},
		"a link": {func() error {
			return errors.Join(os.Rename(path, path+".target"), os.Symlink(keyName+".target", path))
		}, nil},
		"a directory": {func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, ErrUnsafe},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.spoil(); errors.Is(err, os.ErrPermission) {
				t.Skip("needs root")
			} else if err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(path)
			_, err := Open(s.cfg)
			var e *Error
			if !errors.As(err, &e) || test.want != nil && !errors.Is(err, test.want) || e.Hint == "" {
				t.Errorf("%v", err)
			}
			after, _ := os.Lstat(path)
			if (before == nil) != (after == nil) || before != nil && (before.Size() != after.Size() || before.Mode() != after.Mode()) {
				t.Errorf("the key was touched: %v, %v", before, after)
			}
			if now, err := os.ReadFile(s.path); err != nil || !bytes.Equal(now, state) {
				t.Errorf("the state was touched, %v", err)
			}
			must(t, os.RemoveAll(path), os.WriteFile(path, key, 0o600))
		})
	}
	s = open(t, s.cfg)
	if got, err := s.GetSecret(Providers, "p"); err != nil || string(got) != "token" {
		t.Errorf("%q, %v", got, err)
	}
}

// Where nothing is sealed, a key that was lost is no loss.
func TestNewKey(t *testing.T) {
	s := open(t, config(stateDir(t)))
	must(t, s.Put(Sandboxes, "a", []byte("1")), s.PutSecret(Providers, "p", nil), s.Delete(Providers, "p"), s.Close())
	must(t, os.Remove(filepath.Join(s.cfg.Dir, keyName)))
	s = open(t, s.cfg)
	must(t, s.PutSecret(Providers, "p", []byte("token")))
	s = reopen(t, s)
	if got, err := s.GetSecret(Providers, "p"); err != nil || string(got) != "token" {
		t.Errorf("%q, %v", got, err)
	}
	// The same without the state: what is sealed next is so by the key that is there.
	must(t, s.Close(), os.Rename(s.path, s.path+".aside"))
	s = open(t, s.cfg)
	must(t, s.PutSecret(Providers, "p", []byte("again")))
}
