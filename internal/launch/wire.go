package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// The agent and a child speak over a SOCK_SEQPACKET pair. An order is a memfd
// that holds JSON, with the descriptors that the order is about: so its size is
// bounded by memory that the agent pays, not by socket buffers. A reply is small
// and inline. The end of the stream says that the child exec'd or died.
const (
	controlFD = 3        // the child's end
	maxOrder  = 8 << 20  // arguments and environment; the kernel takes 6 MiB
	maxReply  = 96 << 10 // a socket takes 200 KiB
	maxRights = 8        // descriptors of one message
)

// reply is what a child says: it is ready (with descriptors), or which step
// failed.
type reply struct {
	Fault *fault `json:"fault,omitempty"`
	// Warnings are what init could not do, and was not required to.
	Warnings []string `json:"warnings,omitempty"`
	// Refused is a path that every command must find closed; empty for none.
	Refused string `json:"refused,omitempty"`
	// Files name init's descriptors that come with it, in their order: an agent and
	// an init of another build understand each other as far as they need to.
	Files []string `json:"files,omitempty"`
}

// maxWarnings bounds the text of a reply's warnings in bytes. JSON may need six
// for one.
const maxWarnings = maxReply / 8

// boundWarnings leaves out what a reply has no room for, and says so.
func boundWarnings(all []string) []string {
	total := 0
	for i, w := range all {
		if total += len(w); total > maxWarnings {
			return append(slices.Clip(all[:i]), fmt.Sprintf("there are %d more warnings", len(all)-i))
		}
	}
	return all
}

// fault is a StepError on its way to the agent.
type fault struct {
	Step  string        `json:"step"`
	Text  []byte        `json:"text"` // with paths in it, which need not be UTF-8
	Errno syscall.Errno `json:"errno,omitempty"`
	Hint  string        `json:"hint,omitempty"`
	Code  int           `json:"code"`
}

// socketPair returns the agent's end and the child's end. Both close on exec;
// the child's is handed over as an explicit descriptor.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open control socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	conn, err := net.FileConn(ours) // a duplicate
	_ = ours.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("open control socket: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}

// sendOrder sends v, and files with it.
func sendOrder(conn *net.UnixConn, v any, files ...*os.File) error {
	memory, err := orderFile(v)
	if err != nil {
		return err
	}
	defer memory.Close()
	fds := []int{int(memory.Fd())}
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil); err != nil {
		return fmt.Errorf("send order: %w", err)
	}
	return nil
}

func orderFile(v any) (*os.File, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode order: %w", err)
	}
	if len(text) > maxOrder {
		return nil, fmt.Errorf("encode order: %w", unix.E2BIG)
	}
	fd, err := unix.MemfdCreate("ringfence-order", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make order file: %w", err)
	}
	memory := os.NewFile(uintptr(fd), "order")
	if _, err := memory.Write(text); err != nil {
		_ = memory.Close()
		return nil, fmt.Errorf("write order file: %w", err)
	}
	return memory, nil
}

// receiveOrder waits for one order on the child's end. The descriptors that came
// with it are the caller's. io.EOF means that the agent is gone.
func receiveOrder(v any) ([]int, error) {
	var buf [1]byte
	room := make([]byte, unix.CmsgSpace(4*maxRights))
	n, oobn, _, err := recvmsg(controlFD, buf[:], room)
	if err != nil {
		return nil, fmt.Errorf("receive order: %w", err)
	}
	if n == 0 {
		return nil, io.EOF
	}
	fds, err := rights(room[:oobn])
	if err != nil || len(fds) == 0 {
		return nil, fmt.Errorf("receive order: no descriptors: %w", err)
	}
	memory := os.NewFile(uintptr(fds[0]), "order")
	defer memory.Close()
	text, err := io.ReadAll(io.NewSectionReader(memory, 0, maxOrder))
	if err != nil {
		return nil, fmt.Errorf("read order: %w", err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return nil, fmt.Errorf("read order: %w", err)
	}
	return fds[1:], nil
}

func recvmsg(fd int, buf, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			return n, oobn, flags, err
		}
	}
}

// sendReply sends r, and descriptors with it, from the child.
func sendReply(r reply, fds ...int) error { return sendReplyOn(controlFD, r, fds...) }

func sendReplyOn(socket int, r reply, fds ...int) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode reply: %w", err)
	}
	return unix.Sendmsg(socket, text, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
}

// receiveReply waits for one reply on the agent's end; want is how many files
// must come with it unless it tells of a fault. io.EOF means that the child
// closed its end.
func receiveReply(conn *net.UnixConn, want int) ([]*os.File, error) {
	_, files, err := receiveAny(conn)
	if err == nil && len(files) != want {
		closeAll(files)
		return nil, fmt.Errorf("receive reply: %d descriptors instead of %d", len(files), want)
	}
	return files, err
}

// receiveAny is receiveReply for a reply whose descriptors the caller counts.
func receiveAny(conn *net.UnixConn) (*reply, []*os.File, error) {
	r, files, _, err := receiveFrom(conn)
	return r, files, err
}

// receiveFrom is receiveAny that tells the sender as well, where the connection
// asks for that.
func receiveFrom(conn *net.UnixConn) (*reply, []*os.File, *unix.Ucred, error) {
	buf := make([]byte, maxReply)
	room := make([]byte, unix.CmsgSpace(4*maxRights)+unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, room)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("receive reply: %w", err)
	}
	if n == 0 {
		return nil, nil, nil, io.EOF
	}
	var r reply
	fds, sender, rightsErr := control(room[:oobn])
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "received")
	}
	err = errors.Join(json.Unmarshal(buf[:n], &r), rightsErr)
	if err == nil && r.Fault != nil {
		err = r.Fault.stepError()
	}
	if err != nil {
		closeAll(files)
		return nil, nil, nil, err
	}
	return &r, files, sender, nil
}

// rights returns the descriptors of a control message.
func rights(oob []byte) ([]int, error) {
	fds, _, err := control(oob)
	return fds, err
}

// control returns what comes beside the bytes of a message: descriptors, and the
// sender where the kernel was asked to say it. With an error there may be
// descriptors nevertheless, which are the caller's to close.
func control(oob []byte) (fds []int, sender *unix.Ucred, err error) {
	if len(oob) == 0 {
		return nil, nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, nil, fmt.Errorf("parse control message: %w", err)
	}
	for i := range messages {
		if messages[i].Header.Type == unix.SCM_CREDENTIALS {
			if sender, err = unix.ParseUnixCredentials(&messages[i]); err != nil {
				return fds, nil, fmt.Errorf("parse credentials: %w", err)
			}
			continue
		}
		if len(messages[i].Data)%4 != 0 { // x/sys would index beyond its list
			return fds, nil, fmt.Errorf("parse descriptors: %w", unix.EINVAL)
		}
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, nil, fmt.Errorf("parse descriptors: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, sender, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
