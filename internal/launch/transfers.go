package launch

import (
	"encoding/binary"
	"sync"
)

// transfers watches an SFTP session (version 3) go by, and tells of each file that
// was opened, how many bytes of it were moved. The library's server has no place to
// ask. It changes nothing: what it does not understand, the server judges.
type transfers struct {
	requests, responses packets

	dir  string // where relative paths start
	told func(Transfer)

	mu      sync.Mutex
	pending map[uint32]pendingRequest // by request id
	files   map[string]*openFile      // by handle
}

// pendingRequest is one that awaits its answer.
type pendingRequest struct {
	kind   byte
	handle string
	file   *openFile // of an open
	bytes  uint64    // of a write
}

type openFile struct {
	path          string
	writable      bool
	read, written uint64
}

// The kinds of packets that move files, as the protocol numbers them.
const (
	sftpOpen   = 3
	sftpClose  = 4
	sftpRead   = 5
	sftpWrite  = 6
	sftpStatus = 101
	sftpHandle = 102
	sftpData   = 103

	sftpForWriting = 2 // a flag of open
)

// maxWatched bounds the requests without an answer, and the open files, that are
// watched. The server has fewer.
const maxWatched = 4096

func newTransfers(dir string, told func(Transfer)) *transfers {
	t := &transfers{
		dir: dir, told: told,
		pending: make(map[uint32]pendingRequest), files: make(map[string]*openFile),
	}
	t.requests.take, t.responses.take = t.request, t.response
	return t
}

func (t *transfers) request(kind byte, f *fields) {
	id := f.uint32()
	p := pendingRequest{kind: kind}
	switch kind {
	case sftpOpen:
		path := string(f.bytes())
		p.file = &openFile{path: t.absolute(path), writable: f.uint32()&sftpForWriting != 0}
	case sftpClose, sftpRead:
		p.handle = string(f.bytes())
	case sftpWrite:
		p.handle = string(f.bytes())
		_ = f.uint64() // offset
		p.bytes = uint64(f.uint32())
	default:
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !f.short && len(t.pending) < maxWatched {
		t.pending[id] = p
	}
}

// absolute does not clean: what ".." means after a link, only the file system knows.
func (t *transfers) absolute(path string) string {
	if path != "" && path[0] == '/' {
		return path
	}
	return t.dir + "/" + path
}

func (t *transfers) response(kind byte, f *fields) {
	id := f.uint32()
	value, handle := uint32(0), ""
	switch kind {
	case sftpStatus, sftpData:
		value = f.uint32()
	case sftpHandle:
		handle = string(f.bytes())
	}
	if f.short {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.pending[id]
	if !ok {
		return
	}
	delete(t.pending, id)
	file := t.files[p.handle]
	switch {
	case kind == sftpHandle && p.kind == sftpOpen && len(t.files) < maxWatched:
		t.files[handle] = p.file
	case file == nil:
	case kind == sftpData && p.kind == sftpRead:
		file.read += uint64(value)
	case kind == sftpStatus && p.kind == sftpWrite && value == 0:
		file.written += p.bytes
	case kind == sftpStatus && p.kind == sftpClose:
		delete(t.files, p.handle)
		t.tell(file, false)
	}
}

// end tells of what was left open.
func (t *transfers) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for handle, file := range t.files {
		delete(t.files, handle)
		t.tell(file, true)
	}
}

func (t *transfers) tell(file *openFile, cut bool) {
	if file.writable {
		t.told(Transfer{Op: TransferWrite, Path: file.path, Bytes: file.written, Cut: cut})
	}
	if !file.writable || file.read > 0 {
		t.told(Transfer{Op: TransferRead, Path: file.path, Bytes: file.read, Cut: cut})
	}
}

// packets cuts a stream into packets and hands on the start of each: what is moved
// is passed over.
type packets struct {
	take func(kind byte, f *fields)

	size [4]byte
	have int    // bytes of size
	left uint32 // bytes of the packet that are still to come
	head []byte
}

// maxHead takes a path of any length and what stands beside it.
const maxHead = 4096 + 64

func (p *packets) feed(b []byte) {
	for len(b) > 0 {
		if p.have < len(p.size) {
			n := copy(p.size[p.have:], b)
			p.have, b = p.have+n, b[n:]
			if p.have < len(p.size) {
				return
			}
			p.left, p.head = binary.BigEndian.Uint32(p.size[:]), p.head[:0]
		}
		n := uint32(min(uint64(len(b)), uint64(p.left)))
		p.head = append(p.head, b[:min(int(n), maxHead-len(p.head))]...)
		b, p.left = b[n:], p.left-n
		if p.left == 0 {
			p.have = 0
			if len(p.head) > 0 {
				p.take(p.head[0], &fields{rest: p.head[1:]})
			}
		}
	}
}

// fields reads the fields of a packet. After one that is not there, all are zero.
type fields struct {
	rest  []byte
	short bool
}

func (f *fields) next(n uint32) []byte {
	if f.short || uint64(n) > uint64(len(f.rest)) {
		f.short = true
		return nil
	}
	got := f.rest[:n]
	f.rest = f.rest[n:]
	return got
}

func (f *fields) uint32() uint32 {
	if b := f.next(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (f *fields) uint64() uint64 {
	if b := f.next(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (f *fields) bytes() []byte { return f.next(f.uint32()) }
