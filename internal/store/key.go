package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// keySize makes it AES-256.
const keySize = 32

// keyName is the key's file beside the store's.
const keyName = "key"

// keyCheckName stands for the key of the header's sealed nothing.
const keyCheckName = "key_check"

// sealer seals values with AES-256-GCM. Where a value belongs is bound to it, so that
// one does not open in another's place.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (*sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	// The nonce is chosen at random for each value: 2^32 of them may be sealed.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	return &sealer{aead}, nil
}

// place is what a value is bound to.
func place(bucket Bucket, key string) []byte {
	b := append([]byte("ringfence.store.1\x00"), binary.LittleEndian.AppendUint64(nil, uint64(len(bucket)))...)
	return append(append(b, bucket...), key...)
}

func (s *sealer) seal(bucket Bucket, key string, value []byte) []byte {
	return s.aead.Seal(nil, nil, value, place(bucket, key)) //nolint:gosec // it chooses the nonce itself
}

func (s *sealer) open(bucket Bucket, key string, sealed []byte) ([]byte, error) {
	value, err := s.aead.Open(nil, nil, sealed, place(bucket, key))
	if err != nil {
		return nil, fmt.Errorf("open secret %q in %s: %w", key, bucket, ErrKey)
	}
	return value, nil
}

// readKey reads the key file; fs.ErrNotExist where there is none.
func readKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, keyName)
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, &Error{Path: path, Err: err, Hint: "the key is a file of 32 bytes that only root reads"}
	}
	defer file.Close()
	if err := checkOwn(file, path, 0); err != nil {
		return nil, err
	}
	key, err := io.ReadAll(io.LimitReader(file, keySize+1))
	if err != nil {
		return nil, &Error{Path: path, Err: err}
	}
	if len(key) != keySize {
		return nil, &Error{
			Path: path, Err: fmt.Errorf("%w: a key has %d bytes", ErrKey, keySize),
			Hint: "put a copy of the key back: without it the secrets cannot be read",
		}
	}
	return key, nil
}

// makeKey makes the key file, as a whole or not at all.
func makeKey(dir string) ([]byte, error) {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // which cannot fail
	if err := writeFile(dir, keyName, key); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// writeFile writes a file that is not there yet. It has its name only once all of it
// is on the disk.
func writeFile(dir, name string, content []byte) error {
	path := filepath.Join(dir, name)
	scratch := path + ".new"
	if err := os.Remove(scratch); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return err
	}
	file, err := os.OpenFile(scratch, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(scratch))
	}
	return publish(dir, name)
}

// publish gives the scratch file of a name its name, which nothing may have.
func publish(dir, name string) error {
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s: %w", path, fs.ErrExist), err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// checkOwn refuses what is not root's alone, or not a thing of its kind: 0 is a file.
func checkOwn(file *os.File, path string, kind fs.FileMode) error {
	info, err := file.Stat()
	if err != nil {
		return &Error{Path: path, Err: err}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	mode, what := fs.FileMode(0o600), "file"
	if kind == fs.ModeDir {
		mode, what = 0o700, "directory"
	}
	switch own := os.Geteuid(); { // which is root in an agent
	case info.Mode().Type() != kind:
		return &Error{Path: path, Err: fmt.Errorf("%w: it is no %s", ErrUnsafe, what), Hint: "move it away"}
	case !ok || int(st.Uid) != own:
		return &Error{
			Path: path, Err: fmt.Errorf("%w: it is uid %d's", ErrUnsafe, st.Uid),
			Hint: fmt.Sprintf("find out who has put it there; if all is well: chown %d %s", own, path),
		}
	case info.Mode().Perm()&0o077 != 0:
		return &Error{
			Path: path, Err: fmt.Errorf("%w: its mode is %#o", ErrUnsafe, info.Mode().Perm()),
			Hint: fmt.Sprintf("others may have read it; if that is no matter: chmod %o %s", mode, path),
		}
	}
	return nil
}
