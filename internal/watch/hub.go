package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Hub is one instance of the kernel's watching, shared by any number of watchers: a
// user may have few instances (fs.inotify.max_user_instances is 128 as a rule), and a
// directory that many watch is one watch.
type Hub struct {
	inotify *os.File
	ended   chan struct{} // closed when nothing is read any more
	err     error         // why; set before that

	mu       sync.Mutex
	watchers map[int32]map[*Watcher]bool // by watch descriptor
}

// mask is everything that changes a directory, its entries or what they hold.
const mask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_ATTRIB |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// eventRoom takes many events: a name has at most 256 bytes.
const eventRoom = 64 << 10

// NewHub makes an instance without a watch.
func NewHub() (*Hub, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make watcher (see fs.inotify.max_user_instances): %w", err)
	}
	h := &Hub{
		inotify:  os.NewFile(uintptr(fd), "inotify"),
		ended:    make(chan struct{}),
		watchers: make(map[int32]map[*Watcher]bool),
	}
	go h.read()
	return h, nil
}

// New makes a watcher of nothing.
func (h *Hub) New() *Watcher {
	return &Watcher{hub: h, watches: make(map[int32]bool), changed: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Close ends all watches, and every Wait.
func (h *Hub) Close() error {
	err := h.inotify.Close()
	<-h.ended
	return err
}

// add watches the directory of a descriptor for a watcher.
func (h *Hub) add(w *Watcher, fd int) error {
	h.mu.Lock() // so that an event finds its watcher
	defer h.mu.Unlock()
	control, err := h.inotify.SyscallConn()
	if err != nil {
		return err
	}
	var wd int
	var addErr error
	err = control.Control(func(inotify uintptr) {
		// The same inode is the same watch, whoever has it.
		wd, addErr = unix.InotifyAddWatch(int(inotify), "/proc/self/fd/"+strconv.Itoa(fd), mask)
	})
	if err = errors.Join(err, addErr); err != nil {
		return err
	}
	number := int32(wd)
	switch {
	case w.watches[number]:
		return nil
	case len(w.watches) == maxDirs:
		h.leave(number, w)
		return ErrTooMany
	}
	if h.watchers[number] == nil {
		h.watchers[number] = make(map[*Watcher]bool)
	}
	h.watchers[number][w] = true
	w.watches[number] = true
	return nil
}

// remove ends all watches of a watcher.
func (h *Hub) remove(w *Watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for number := range w.watches {
		h.leave(number, w)
	}
}

// leave takes a watcher off a watch, which ends with its last. The caller holds mu.
func (h *Hub) leave(number int32, w *Watcher) {
	delete(h.watchers[number], w)
	if len(h.watchers[number]) > 0 {
		return
	}
	delete(h.watchers, number)
	if control, err := h.inotify.SyscallConn(); err == nil {
		// It may have ended by itself, with its directory.
		_ = control.Control(func(inotify uintptr) { _, _ = unix.InotifyRmWatch(int(inotify), uint32(number)) })
	}
}

// read hands on what the kernel tells, until Close.
func (h *Hub) read() {
	defer close(h.ended)
	buf := make([]byte, eventRoom)
	for {
		n, err := h.inotify.Read(buf)
		if err != nil {
			h.err = fmt.Errorf("watch directories: %w", err)
			if errors.Is(err, os.ErrClosed) {
				h.err = ErrClosed
			}
			return
		}
		h.tell(buf[:n])
	}
}

// tell wakes the watchers that events are for.
func (h *Hub) tell(events []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		number := int32(binary.NativeEndian.Uint32(events))
		what := binary.NativeEndian.Uint32(events[4:])
		length := binary.NativeEndian.Uint32(events[12:])
		events = events[min(uint64(len(events)), unix.SizeofInotifyEvent+uint64(length)):]
		if what&unix.IN_Q_OVERFLOW != 0 {
			for number := range h.watchers { // something has changed somewhere
				h.wake(number)
			}
			continue
		}
		h.wake(number)
		if what&unix.IN_IGNORED != 0 { // the number is nobody's from now on
			delete(h.watchers, number)
		}
	}
}

// wake tells the watchers of one watch. The caller holds mu.
func (h *Hub) wake(number int32) {
	for w := range h.watchers[number] {
		select {
		case w.changed <- struct{}{}:
		default: // has not looked yet
		}
	}
}
