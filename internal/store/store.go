package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Bucket is the name of a set of keys.
type Bucket string

// The buckets.
const (
	Sandboxes Bucket = "sandboxes"
	Providers Bucket = "providers"
	Policies  Bucket = "policies" // and their revisions
	Trust     Bucket = "trust"    // which file was first used under a path
	Keys      Bucket = "keys"     // of the agent's own: host keys, certificate authorities
)

func buckets() []Bucket { return []Bucket{Sandboxes, Providers, Policies, Trust, Keys} }

// Bounds, where a configuration names none.
const (
	DefaultMaxKeys  = 65536
	DefaultMaxValue = 4 << 20
	DefaultMaxBytes = 1 << 30

	// MaxKey is how long a key may be, in bytes.
	MaxKey = 1024
)

const (
	// growBytes is by how much the file grows, and slackBytes how far over its bound it
	// may do so for deletions: they need room before they make any.
	growBytes  = 256 << 10
	slackBytes = 4 * growBytes
)

const (
	fileName = "state.db"
	lockName = "lock"

	lockPatience = time.Second
	lockPause    = 5 * time.Millisecond
)

// Config says where the store is, and what it may hold.
type Config struct {
	// Dir is root's alone; it is made where it is missing.
	Dir string
	Log *slog.Logger
	// MaxKeys bounds each bucket, MaxValue each value in bytes, and MaxBytes the file.
	// 0 is the default of each.
	MaxKeys, MaxValue, MaxBytes int
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	cfg  Config
	path string // of the file
	lock *os.File
	seal *sealer

	mu     sync.RWMutex // held to write by writers: the library's own locks do not outlive its panics
	db     *bbolt.DB    // nil once closed
	header header
	broken error // what made the store unusable
}

// Open opens the store, or makes it. An error is an *Error where a person can do
// something about it, and then nothing was changed.
func Open(cfg Config) (_ *Store, err error) {
	if cfg.MaxKeys <= 0 {
		cfg.MaxKeys = DefaultMaxKeys
	}
	if cfg.MaxValue <= 0 {
		cfg.MaxValue = DefaultMaxValue
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	s := &Store{cfg: cfg, path: filepath.Join(cfg.Dir, fileName)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.claim(); err != nil {
		return nil, err
	}
	found, err := s.look()
	if err != nil {
		return nil, err
	}
	if err := s.loadKey(found); err != nil {
		return nil, err
	}
	if found == nil {
		if err := s.create(); err != nil {
			return nil, fmt.Errorf("make state: %w", err)
		}
		cfg.Log.Info("made the state", "file", s.path)
	} else {
		s.header = *found.header
	}
	if s.db, err = s.openFile(s.path); err != nil {
		return nil, err
	}
	return s, nil
}

// claim makes the directory and locks it. The lock ends with the process, however it
// ends.
func (s *Store) claim() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	dir, err := os.OpenFile(s.cfg.Dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &Error{Path: s.cfg.Dir, Err: err, Hint: "name a directory, by a path that ends in no symbolic link"}
	}
	defer dir.Close()
	if err := checkOwn(dir, s.cfg.Dir, fs.ModeDir); err != nil {
		return err
	}
	path := filepath.Join(s.cfg.Dir, lockName)
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return fmt.Errorf("open lock of the state: %w", err)
	}
	switch err := patiently(lock); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return errors.Join(inUse(s.cfg.Dir), lock.Close())
	case err != nil:
		return errors.Join(fmt.Errorf("lock state: %w", err), lock.Close())
	}
	s.lock = lock
	return nil
}

// patiently takes the lock. An agent that was killed is seen to be dead before what it
// held is free: what it was just starting may hold it for a moment.
func patiently(lock *os.File) error {
	for deadline := time.Now().Add(lockPatience); ; <-time.After(lockPause) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
	}
}

func inUse(path string) error {
	return &Error{Path: path, Err: ErrInUse, Hint: "stop it first; ringfence agent status tells which it is"}
}

// look reads the file as it is, and says what is in there; nil where there is none.
func (s *Store) look() (*contents, error) {
	file, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Path: s.path, Err: err}
	}
	defer file.Close()
	if err := checkOwn(file, s.path, 0); err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, &Error{Path: s.path, Err: err}
	}
	if info.Size() > int64(s.cfg.MaxBytes)+slackBytes {
		return nil, &Error{Path: s.path, Err: fmt.Errorf("%w: it has %d bytes, of %d", ErrTooLarge, info.Size(), s.cfg.MaxBytes), Hint: "raise the bound"}
	}
	data := make([]byte, info.Size())
	if n, err := file.ReadAt(data, 0); n < len(data) {
		return nil, &Error{Path: s.path, Err: fmt.Errorf("read: %w", err)}
	}
	found, err := read(data, os.Getpagesize())
	if errors.Is(err, ErrNewer) {
		return nil, &Error{Path: s.path, Err: err, Hint: "start that release, or a newer one"}
	}
	if err != nil {
		return nil, broken(s.path, "%v", err)
	}
	return found, nil
}

// loadKey reads the key file, or makes it where nothing was sealed yet.
func (s *Store) loadKey(found *contents) error {
	key, err := readKey(s.cfg.Dir)
	path := filepath.Join(s.cfg.Dir, keyName)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && found != nil && found.secrets > 0:
		return &Error{
			Path: path, Err: fmt.Errorf("%w: it is missing, and %d secrets are sealed with it", ErrKey, found.secrets),
			Hint: "put a copy of the key back: without it the secrets cannot be read. To go on without them, move " + s.path + " aside",
		}
	case missing:
		if key, err = makeKey(s.cfg.Dir); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if s.seal, err = newSealer(key); err != nil {
		return err
	}
	if found == nil {
		return nil
	}
	if _, err := s.seal.open(headerBucket, keyCheckName, found.header.KeyCheck); err == nil {
		return nil
	}
	if found.secrets > 0 {
		return &Error{
			Path: path, Err: fmt.Errorf("%w: %d secrets are sealed with another one", ErrKey, found.secrets),
			Hint: "put a copy of that key back. To go on without the secrets, move " + s.path + " aside",
		}
	}
	// Of no value: the next write says which key it is.
	found.header.KeyCheck = s.seal.seal(headerBucket, keyCheckName, nil)
	return nil
}

// create makes a file with nothing in it, as a whole or not at all.
func (s *Store) create() error {
	scratch := s.path + ".new"
	if err := os.Remove(scratch); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return err
	}
	db, err := s.openFile(scratch)
	if err != nil {
		return err
	}
	s.header = header{Format: Format, Buckets: map[Bucket]tally{}, KeyCheck: s.seal.seal(headerBucket, keyCheckName, nil)}
	err = db.Update(func(tx *bbolt.Tx) error { return putHeader(tx, &s.header) })
	if err := errors.Join(err, db.Sync(), db.Close()); err != nil {
		return errors.Join(err, os.Remove(scratch))
	}
	return publish(s.cfg.Dir, fileName)
}

// openFile has the library open a file that was looked at, or a new one.
func (s *Store) openFile(path string) (db *bbolt.DB, err error) {
	err = guard(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:  time.Millisecond, // it is ours by the lock
			MaxSize:  s.cfg.MaxBytes,
			PageSize: os.Getpagesize(),
		})
		if err == nil {
			db.AllocSize = growBytes
		}
		return err
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, inUse(path)
	case errors.Is(err, errPanic):
		return nil, broken(path, "%v", err)
	case err != nil:
		return nil, fmt.Errorf("open state: %w", err)
	}
	return db, nil
}

// Close closes the store. Reads and writes that have begun end first.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.db != nil && s.broken == nil { // of a broken one the library may hold locks
		errs = append(errs, s.db.Close())
	}
	s.db = nil
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
		s.lock = nil
	}
	return errors.Join(errs...)
}

// errPanic: the library, or the memory that it reads the file through, gave up.
var errPanic = errors.New("a fault in reading it")

// guard runs what calls the library. Where the file was cut or changed under it, by
// whoever, it panics or faults.
func guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return do()
}

// view runs a read. It must not keep what it reads.
func (s *Store) view(do func(*bbolt.Tx) error) error {
	s.mu.RLock()
	if err := s.usable(); err != nil {
		s.mu.RUnlock()
		return err
	}
	err := guard(func() error { return s.db.View(do) })
	s.mu.RUnlock()
	if errors.Is(err, errPanic) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.fail(err)
	}
	return err
}

// usable returns why the store is not. The caller holds mu.
func (s *Store) usable() error {
	if s.broken != nil {
		return s.broken
	}
	if s.db == nil {
		return ErrClosed
	}
	return nil
}

// fail makes the store unusable. The caller holds mu to write.
func (s *Store) fail(err error) error {
	if s.broken == nil {
		s.broken = broken(s.path, "while it was open: %v", err)
		s.cfg.Log.Error("the state is not written any more", "error", s.broken)
	}
	return s.broken
}

func putHeader(tx *bbolt.Tx, h *header) error {
	raw, err := h.encode()
	if err != nil {
		return err
	}
	b, err := tx.CreateBucketIfNotExists([]byte(headerBucket))
	if err != nil {
		return err
	}
	return b.Put([]byte(headerKey), raw)
}

// clone returns a header to change.
func (h *header) clone() header {
	c := *h
	c.Buckets = maps.Clone(h.Buckets)
	return c
}
