package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/sniff"
)

// buffer holds a whole ClientHello or request head and more; a read that fills
// it announces bulk.
type buffer [18 << 10]byte

// A buffer that is too small for a hello does not compile.
var _ [len(buffer{}) - sniff.MaxHello]struct{}

// errFull: the buffer holds as much as it can.
var errFull = errors.New("buffer is full")

// inlet reads one side of a connection. It has a buffer only while there are
// bytes in it: an idle connection holds none.
type inlet struct {
	src  *net.TCPConn
	raw  syscall.RawConn
	pool *sync.Pool
	try  func(fd uintptr) bool

	buf  *buffer // nil while held is 0
	held int
	n    int // of the last read
	err  error
}

func newInlet(src *net.TCPConn, pool *sync.Pool) (*inlet, error) {
	raw, err := src.SyscallConn()
	if err != nil {
		return nil, err
	}
	in := &inlet{src: src, raw: raw, pool: pool}
	in.try = in.tryRead
	return in, nil
}

// bytes returns what is held; valid until the next call of another method.
func (in *inlet) bytes() []byte {
	if in.buf == nil {
		return nil
	}
	return in.buf[:in.held]
}

// fill waits until there is more and adds it. At the end it returns io.EOF.
func (in *inlet) fill() error {
	if in.held == len(buffer{}) {
		return errFull
	}
	if err := in.raw.Read(in.try); err != nil {
		return err
	}
	switch {
	case in.err != nil:
		in.drop(0)
		return in.err
	case in.n == 0:
		in.drop(0)
		return io.EOF
	}
	in.held += in.n
	return nil
}

// tryRead reads without waiting and reports whether that came to an answer.
func (in *inlet) tryRead(fd uintptr) bool {
	if in.buf == nil {
		in.buf = in.pool.Get().(*buffer)
	}
	for {
		in.n, in.err = unix.Read(int(fd), in.buf[in.held:])
		switch in.err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			in.drop(0)
			return false
		}
		return true
	}
}

// drop forgets the first n bytes, and gives the buffer back with the last one.
func (in *inlet) drop(n int) {
	if n > 0 {
		in.held = copy(in.buf[:], in.buf[n:in.held])
	}
	if in.held == 0 && in.buf != nil {
		in.pool.Put(in.buf)
		in.buf = nil
	}
}

// pending returns how many bytes the kernel holds for the next reads; 0 where it
// cannot tell.
func (in *inlet) pending() int {
	n := 0
	err := in.raw.Control(func(fd uintptr) {
		var err error
		if n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ); err != nil {
			n = 0
		}
	})
	if err != nil {
		return 0
	}
	return n
}
