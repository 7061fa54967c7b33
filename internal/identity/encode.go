package identity

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/internal/flow"
)

// ErrEncoding: the bytes were not made by EncodeTrust of this release or an older one.
var ErrEncoding = errors.New("no encoding of trust")

// An encoding begins with its version and goes on with the entries, by path. Each has
// the length of its path, the path, what is known of the content, perhaps the hash, the
// number of files, and those.
const (
	encodingVersion = 1

	isHashable = 1 << 0
	hasHash    = 1 << 1

	hashSize = 32
	fileSize = 44
)

// trustSize is the most that the encoding of an entry takes.
func trustSize(path, files int) int { return 4 + path + 1 + hashSize + 1 + files*fileSize }

// EncodeTrust returns trust as bytes. What it holds must be of a Table.
func EncodeTrust(all []Trust) ([]byte, error) {
	b := []byte{encodingVersion}
	for _, t := range all {
		var flags byte
		if t.Hashable {
			flags |= isHashable
		}
		hash, err := hex.DecodeString(t.SHA256)
		switch {
		case err != nil || len(hash) != 0 && len(hash) != hashSize:
			return nil, fmt.Errorf("encode trust in %q: %q is no hash", t.Path, t.SHA256)
		case len(hash) > 0:
			flags |= hasHash
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(len(t.Path)))
		b = append(b, t.Path...)
		b = append(b, flags)
		b = append(b, hash...)
		b = append(b, byte(len(t.Files)))
		for _, f := range t.Files {
			if b, err = binary.Append(b, binary.LittleEndian, f); err != nil {
				return nil, fmt.Errorf("encode trust in %q: %w", t.Path, err)
			}
		}
	}
	return b, nil
}

// DecodeTrust returns what EncodeTrust was given. Bytes that it does not make are an
// error: trust is not guessed.
func DecodeTrust(b []byte) ([]Trust, error) {
	r := bytes.NewReader(b)
	if version, err := r.ReadByte(); err != nil || version != encodingVersion {
		return nil, fmt.Errorf("%w: its version is %d, and this release knows %d", ErrEncoding, version, encodingVersion)
	}
	var all []Trust
	for r.Len() > 0 {
		t, err := decodeOne(r)
		if err != nil {
			return nil, fmt.Errorf("%w: after %d entries: %w", ErrEncoding, len(all), err)
		}
		if len(all) > 0 && t.Path <= all[len(all)-1].Path {
			return nil, fmt.Errorf("%w: its paths are not in order", ErrEncoding)
		}
		all = append(all, t)
	}
	return all, nil
}

func decodeOne(r *bytes.Reader) (Trust, error) {
	var t Trust
	var length uint32
	if err := binary.Read(r, binary.LittleEndian, &length); err != nil {
		return t, err
	}
	path, err := take(r, int64(length))
	if err != nil {
		return t, err
	}
	flags, err := take(r, 1)
	if err != nil {
		return t, err
	}
	t.Path, t.Hashable = string(path), flags[0]&isHashable != 0
	if flags[0]&hasHash != 0 {
		hash, err := take(r, hashSize)
		if err != nil {
			return t, err
		}
		t.SHA256 = hex.EncodeToString(hash)
	}
	count, err := take(r, 1)
	if err != nil {
		return t, err
	}
	if flags[0]&^(isHashable|hasHash) != 0 || count[0] == 0 || count[0] > maxFiles {
		return t, errors.New("no entry")
	}
	t.Files = make([]flow.FileID, count[0])
	return t, binary.Read(r, binary.LittleEndian, t.Files)
}

// take returns the next n bytes.
func take(r *bytes.Reader, n int64) ([]byte, error) {
	if n > int64(r.Len()) {
		return nil, errors.New("it is cut")
	}
	b := make([]byte, n)
	_, err := r.Read(b)
	if n == 0 {
		err = nil // at the end, it is EOF
	}
	return b, err
}
