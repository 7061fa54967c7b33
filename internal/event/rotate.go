package event

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a file of records, where its configuration names none.
const (
	DefaultFileBytes = 100 << 20
	DefaultFileKeep  = 5
)

// reportAgain is how long a disk may be full before it is told again.
const reportAgain = time.Minute

// FileConfig says where records are written as JSON lines.
type FileConfig struct {
	Path string
	// Bytes is how large the file becomes before it is moved to Path.1; 0 is
	// DefaultFileBytes.
	Bytes int64
	// Keep is how many moved ones are kept: Path.1 is the youngest. 0 is
	// DefaultFileKeep.
	Keep int
}

// rotating is a file that is moved aside when it is full. It begins every write on a
// line of its own, also after a crash. It is for one goroutine.
type rotating struct {
	cfg  FileConfig
	file *os.File // nil after an error: opened again by the next write
	size int64
}

// openRotating opens the file for appending, or makes it.
func openRotating(cfg FileConfig) (*rotating, error) {
	if cfg.Bytes <= 0 {
		cfg.Bytes = DefaultFileBytes
	}
	if cfg.Keep <= 0 {
		cfg.Keep = DefaultFileKeep
	}
	r := &rotating{cfg: cfg}
	if err := r.open(); err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	return r, nil
}

// open opens the file. It is root that writes: a link that somebody may have put there
// is not followed, and nothing but a file is written to.
func (r *rotating) open() error {
	flags := os.O_CREATE | os.O_RDWR | os.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK
	file, err := os.OpenFile(r.cfg.Path, flags, 0o600)
	if err != nil {
		return err
	}
	size, err := endLine(file)
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", r.cfg.Path, err), file.Close())
	}
	r.file, r.size = file, size
	return nil
}

// endLine ends the line that a crash may have left without an end, and returns the
// size of the file.
func endLine(file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() || !ok || st.Nlink != 1 {
		return 0, errors.New("no regular file of one name")
	}
	size := info.Size()
	if size == 0 {
		return 0, nil
	}
	last := []byte{0}
	if _, err := file.ReadAt(last, size-1); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if last[0] == '\n' {
		return size, nil
	}
	n, err := file.Write([]byte{'\n'})
	return size + int64(n), err
}

// Write appends whole lines.
func (r *rotating) Write(lines []byte) (int, error) {
	if r.file == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	if r.size > 0 && r.size+int64(len(lines)) > r.cfg.Bytes {
		if err := r.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(lines)
	r.size += int64(n)
	return n, err
}

// rotate moves the file aside, and the older ones by one.
func (r *rotating) rotate() error {
	if err := r.Close(); err != nil {
		return err
	}
	for n := r.cfg.Keep; n > 0; n-- {
		if err := os.Rename(r.name(n-1), r.name(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return r.open()
}

func (r *rotating) name(n int) string {
	if n == 0 {
		return r.cfg.Path
	}
	return r.cfg.Path + "." + strconv.Itoa(n)
}

// Close closes the file.
func (r *rotating) Close() error {
	if r.file == nil {
		return nil
	}
	file := r.file
	r.file = nil
	return file.Close()
}
