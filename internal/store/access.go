package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// eachAtOnce is how many values are read at a time.
const eachAtOnce = 64

// Item is what stands under a key.
type Item struct {
	Key    string
	Value  []byte // nil of a secret
	Secret bool
}

// Get returns a value, or ErrNotFound.
func (s *Store) Get(bucket Bucket, key string) ([]byte, error) {
	kind, value, err := s.get(bucket, key)
	if err != nil {
		return nil, err
	}
	if kind != plainValue {
		return nil, fmt.Errorf("read %q in %s: %w", key, bucket, ErrSealed)
	}
	return value, nil
}

// GetSecret returns what PutSecret has put, or ErrNotFound.
func (s *Store) GetSecret(bucket Bucket, key string) ([]byte, error) {
	kind, sealed, err := s.get(bucket, key)
	if err != nil {
		return nil, err
	}
	if kind != sealedValue {
		return nil, fmt.Errorf("read %q in %s: %w", key, bucket, ErrSealed)
	}
	return s.seal.open(bucket, key, sealed)
}

func (s *Store) get(bucket Bucket, key string) (kind byte, value []byte, err error) {
	if !slices.Contains(buckets(), bucket) {
		return 0, nil, fmt.Errorf("read %q in %s: %w", key, bucket, ErrBucket)
	}
	var raw []byte
	err = s.view(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(bucket)); b != nil {
			raw = bytes.Clone(b.Get([]byte(key)))
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, nil, err
	case raw == nil:
		return 0, nil, fmt.Errorf("read %q in %s: %w", key, bucket, ErrNotFound)
	}
	if kind, value, err = decode(bucket, key, raw); err != nil {
		return 0, nil, broken(s.path, "%v", err)
	}
	return kind, value, nil
}

// Each calls visit with what stands in a bucket, by key in the order of their bytes,
// from the first key after one on; all are after "". It ends with the first error, and
// returns that. The store is free while visit runs: what is written meanwhile is seen
// where it comes after, or not.
func (s *Store) Each(bucket Bucket, after string, visit func(Item) error) error {
	if !slices.Contains(buckets(), bucket) {
		return fmt.Errorf("read %s: %w", bucket, ErrBucket)
	}
	for {
		items, err := s.some(bucket, after)
		if err != nil || len(items) == 0 {
			return err
		}
		for _, item := range items {
			if err := visit(item); err != nil {
				return err
			}
		}
		after = items[len(items)-1].Key
	}
}

// some returns the next few items after a key.
func (s *Store) some(bucket Bucket, after string) ([]Item, error) {
	var items []Item
	var bad error
	err := s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		c := b.Cursor()
		key, raw := c.Seek([]byte(after))
		if key != nil && string(key) == after {
			key, raw = c.Next()
		}
		for ; key != nil && len(items) < eachAtOnce; key, raw = c.Next() {
			kind, value, err := decode(bucket, string(key), raw)
			if err != nil {
				bad = broken(s.path, "%v", err)
				return nil
			}
			item := Item{Key: string(key), Secret: kind == sealedValue}
			if !item.Secret {
				item.Value = append([]byte{}, value...)
			}
			items = append(items, item)
		}
		return nil
	})
	return items, errors.Join(err, bad)
}

// Put writes a value.
func (s *Store) Put(bucket Bucket, key string, value []byte) error {
	var b Batch
	b.Put(bucket, key, value)
	return s.Write(&b)
}

// PutSecret writes a value sealed.
func (s *Store) PutSecret(bucket Bucket, key string, value []byte) error {
	var b Batch
	b.PutSecret(bucket, key, value)
	return s.Write(&b)
}

// Delete removes what stands under a key, if anything does.
func (s *Store) Delete(bucket Bucket, key string) error {
	var b Batch
	b.Delete(bucket, key)
	return s.Write(&b)
}

// Batch is several writes, in order. The zero value is none.
type Batch struct{ writes []write }

type write struct {
	bucket Bucket
	key    string
	value  []byte
	kind   byte // 0 is a deletion
}

// Put adds the writing of a value, which is not copied.
func (b *Batch) Put(bucket Bucket, key string, value []byte) {
	b.writes = append(b.writes, write{bucket, key, value, plainValue})
}

// PutSecret adds the writing of a value sealed.
func (b *Batch) PutSecret(bucket Bucket, key string, value []byte) {
	b.writes = append(b.writes, write{bucket, key, value, sealedValue})
}

// Delete adds a deletion.
func (b *Batch) Delete(bucket Bucket, key string) {
	b.writes = append(b.writes, write{bucket: bucket, key: key})
}

// Write does all of a batch, or nothing. Once it returns without an error, what was
// written is there whatever happens.
func (s *Store) Write(b *Batch) error {
	if len(b.writes) == 0 {
		return nil
	}
	for _, w := range b.writes {
		if err := s.check(w); err != nil {
			return fmt.Errorf("write %q in %s: %w", w.key, w.bucket, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	next := s.header.clone()
	err := guard(func() error {
		s.db.MaxSize = s.cfg.MaxBytes
		if !slices.ContainsFunc(b.writes, func(w write) bool { return w.kind != 0 }) {
			s.db.MaxSize += slackBytes
		}
		return s.db.Update(func(tx *bbolt.Tx) error {
			for _, w := range b.writes {
				if err := s.apply(tx, &next, w); err != nil {
					return refused{fmt.Errorf("write %q in %s: %w", w.key, w.bucket, err)}
				}
			}
			return putHeader(tx, &next)
		})
	})
	var no refused
	switch {
	case err == nil:
		s.header = next
		return nil
	case errors.As(err, &no):
		return no.error
	case errors.Is(err, berrors.ErrMaxSizeReached):
		return &Error{Path: s.path, Err: fmt.Errorf("%w: %w", ErrTooLarge, err), Hint: "raise the bound of the file"}
	case (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) && !s.shows(&next):
		return &Error{Path: s.path, Err: fmt.Errorf("write: %w", err), Hint: "make room on the disk: what was there before is there still"}
	}
	// The disk may hold the one or the other: only reading it anew tells.
	return s.fail(err)
}

// shows reports whether the file holds a header, of a write that has failed: only its
// last step had then. The caller holds mu to write.
func (s *Store) shows(h *header) bool {
	want, err := h.encode()
	if err != nil {
		return true
	}
	var got []byte
	err = guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			if b := tx.Bucket([]byte(headerBucket)); b != nil {
				got = bytes.Clone(b.Get([]byte(headerKey)))
			}
			return nil
		})
	})
	return err != nil || bytes.Equal(got, want)
}

// refused is an error from before anything was written.
type refused struct{ error }

// check returns why a write may not be.
func (s *Store) check(w write) error {
	switch {
	case !slices.Contains(buckets(), w.bucket):
		return ErrBucket
	case w.key == "" || len(w.key) > MaxKey:
		return fmt.Errorf("%w: a key has 1 to %d bytes, and this one %d", ErrTooLarge, MaxKey, len(w.key))
	case len(w.value) > s.cfg.MaxValue:
		return fmt.Errorf("%w: a value has at most %d bytes, and this one %d", ErrTooLarge, s.cfg.MaxValue, len(w.value))
	}
	return nil
}

// apply does one write, and tells the header.
func (s *Store) apply(tx *bbolt.Tx, h *header, w write) error {
	b, err := tx.CreateBucketIfNotExists([]byte(w.bucket))
	if err != nil {
		return err
	}
	t := h.Buckets[w.bucket]
	old := b.Get([]byte(w.key))
	if old != nil {
		if _, _, err := decode(w.bucket, w.key, old); err != nil {
			return broken(s.path, "%v", err)
		}
		t.add(-1, old)
	}
	switch {
	case w.kind == 0:
		err = b.Delete([]byte(w.key))
	case old == nil && t.Count >= s.cfg.MaxKeys:
		return fmt.Errorf("%w: %s has %d keys", ErrTooLarge, w.bucket, t.Count)
	default:
		value := w.value
		if w.kind == sealedValue {
			value = s.seal.seal(w.bucket, w.key, value)
		}
		raw := encode(w.kind, w.bucket, w.key, value)
		t.add(1, raw)
		err = b.Put([]byte(w.key), raw)
	}
	h.Buckets[w.bucket] = t
	return err
}
