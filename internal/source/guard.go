package source

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/rootfs"
)

// Why what was read is not taken.
var (
	// ErrOthersWrite: somebody else than root could have written it.
	ErrOthersWrite = errors.New("others than root can change it, and so could the sandbox")
	// ErrBeingWritten: it is open for writing, and may change yet.
	ErrBeingWritten = errors.New("it is open for writing")
)

// Guard reads sources while a sandbox runs: only what nobody but root can have
// written, for a program could else write its own policy.
//
// It looks at the very file that it reads, and at every directory and link on the
// way. Owner and mode say nothing of descriptors that were opened for writing
// before they were changed, so a file that was others' once is refused for good,
// and one that is open for writing until it is closed.
type Guard struct {
	set Set

	mu     sync.Mutex
	others map[inode]bool // files that were others' when they were read
	full   bool           // there were more than can be remembered
}

// inode is a file for its life: the number of one that is gone is given to the next,
// but not its time of birth, which nobody can set.
type inode struct {
	device, number uint64
	birth          unix.StatxTimestamp // zero where the file system has none
}

// NewGuard returns a guard of a set.
func NewGuard(set Set) *Guard { return &Guard{set: set, others: map[inode]bool{}} }

// Read reads everything. The error may wrap ErrOthersWrite or ErrBeingWritten; the
// content is then there too, to tell one change from the next.
func (g *Guard) Read() Reading {
	g.mu.Lock()
	defer g.mu.Unlock()
	var refused error
	content, err := g.set.read(func(path string) (*os.File, error) {
		file, why, err := g.open(path)
		if why != nil && refused == nil {
			refused = &Error{fmt.Errorf("%s: %w", path, why), "put a new file where only root writes: sudo install -m 644 FILE DIR"}
		}
		return file, err
	})
	if err == nil {
		err = refused
	}
	return Reading{content, err}
}

// open opens a file, and says why it must not be read, if so.
func (g *Guard) open(path string) (file *os.File, why, err error) {
	path, err = absolute(path)
	if err != nil {
		return nil, nil, err
	}
	host, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer host.Close()
	file, link, err := rootfs.New(host).Open(path, rootfs.Others())
	if err != nil {
		return nil, nil, err
	}
	id, err := identify(file)
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	if link.Writable {
		g.remember(id)
	}
	switch {
	case link.Writable || g.others[id] || g.full:
		why = ErrOthersWrite
	case hasWriter(file):
		why = ErrBeingWritten
	}
	return file, why, nil
}

// maxOthers bounds what a sandbox can have remembered by making files. Beyond it
// nothing is taken any more.
const maxOthers = 4096

func (g *Guard) remember(id inode) {
	if g.full = g.full || len(g.others) >= maxOthers; !g.full {
		g.others[id] = true
	}
}

func identify(file *os.File) (inode, error) {
	var st unix.Statx_t
	err := unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err != nil {
		return inode{}, fmt.Errorf("stat %s: %w", file.Name(), err)
	}
	id := inode{device: unix.Mkdev(st.Dev_major, st.Dev_minor), number: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.birth = st.Btime
	}
	return id, nil
}

// hasWriter reports whether a file is open for writing. A read lease is not to be
// had then; one that was got ends with the descriptor. Directories, and file
// systems that know no leases, have none to give.
func hasWriter(file *os.File) bool {
	_, err := unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	return slices.Contains([]error{unix.EAGAIN, unix.EBUSY}, err)
}
