package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// Format is the version of what stands in the file. A higher one is refused.
const Format = 1

// Kinds of values.
const (
	plainValue  = 'p'
	sealedValue = 's'
)

// sumSize is the length of a value's checksum, in bytes.
const sumSize = 16

// A value stands in the file as its kind, a checksum over all that it is, and itself.
// The library checks none of what it reads.
type sum [sumSize]byte

// MarshalText implements encoding.TextMarshaler.
func (s sum) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *sum) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != sumSize {
		return fmt.Errorf("%q is no sum", text)
	}
	*s = sum(raw)
	return nil
}

func sumOf(kind byte, bucket Bucket, key string, value []byte) sum {
	h := sha256.New()
	for _, part := range [][]byte{{kind}, []byte(bucket), []byte(key), value} {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(part))))
		_, _ = h.Write(part)
	}
	return sum(h.Sum(nil)[:sumSize])
}

func encode(kind byte, bucket Bucket, key string, value []byte) []byte {
	s := sumOf(kind, bucket, key, value)
	return append(append([]byte{kind}, s[:]...), value...)
}

// decode returns what encode was given. The value is a part of raw.
func decode(bucket Bucket, key string, raw []byte) (kind byte, value []byte, err error) {
	if len(raw) < 1+sumSize {
		return 0, nil, fmt.Errorf("%q in %s is cut", key, bucket)
	}
	kind, value = raw[0], raw[1+sumSize:]
	if s := sumOf(kind, bucket, key, value); !bytes.Equal(s[:], raw[1:1+sumSize]) || kind != plainValue && kind != sealedValue {
		return 0, nil, fmt.Errorf("%q in %s is not what was written", key, bucket)
	}
	return kind, value, nil
}

// The header says what there is besides itself, so that nothing goes missing without
// being noticed. Later formats keep its place, its checksum and the field format.
const (
	headerBucket Bucket = "ringfence"
	headerKey    string = "header"
)

type header struct {
	Format  int              `json:"format"`
	Buckets map[Bucket]tally `json:"buckets"`
	// KeyCheck is a sealed nothing: what opens it is the key of all secrets.
	KeyCheck []byte `json:"key_check"`
}

// tally is what a bucket holds: how many values, and the sums of all, added without
// carry.
type tally struct {
	Count int `json:"count"`
	Sum   sum `json:"sum"`
}

// add counts a value in, or with a negative count out: it is the same for the sum.
func (t *tally) add(count int, raw []byte) {
	t.Count += count
	for i, b := range raw[1 : 1+sumSize] {
		t.Sum[i] ^= b
	}
}

func (h *header) encode() ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	return encode(plainValue, headerBucket, headerKey, text), nil
}

// contents is what was found in a file.
type contents struct {
	header  *header
	buckets map[Bucket]tally
	secrets int
}

// read checks a whole file. An error is of what is broken; ErrNewer where a newer
// release has written it.
func read(data []byte, pageSize int) (*contents, error) {
	type item struct {
		bucket Bucket
		key    string
		raw    []byte
	}
	var items []item
	c := &contents{buckets: map[Bucket]tally{}}
	err := walk(data, pageSize, func(bucket, key, value []byte) error {
		if Bucket(bucket) != headerBucket {
			items = append(items, item{Bucket(bucket), string(key), value})
			return nil
		}
		if string(key) != headerKey || c.header != nil {
			return errors.New("its header is none")
		}
		_, text, err := decode(headerBucket, headerKey, value)
		if err != nil {
			return err
		}
		c.header = &header{}
		return json.Unmarshal(text, c.header)
	})
	switch {
	case err != nil:
		return nil, err
	case c.header == nil:
		return nil, errors.New("it has no header")
	case c.header.Format < 1 || c.header.Buckets == nil:
		return nil, errors.New("its header is none")
	case c.header.Format > Format:
		return nil, fmt.Errorf("%w: its format is %d, and this release knows %d", ErrNewer, c.header.Format, Format)
	}
	for _, i := range items {
		kind, _, err := decode(i.bucket, i.key, i.raw)
		if err != nil {
			return nil, err
		}
		if kind == sealedValue {
			c.secrets++
		}
		t := c.buckets[i.bucket]
		t.add(1, i.raw)
		c.buckets[i.bucket] = t
	}
	for bucket, want := range c.header.Buckets {
		if got := c.buckets[bucket]; got != want {
			return nil, fmt.Errorf("%s has %d values, of %d that were written, or others", bucket, got.Count, want.Count)
		}
	}
	for bucket := range c.buckets {
		if _, ok := c.header.Buckets[bucket]; !ok {
			return nil, fmt.Errorf("%s was never written", bucket)
		}
	}
	return c, nil
}
