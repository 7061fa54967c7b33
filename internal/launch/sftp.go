package launch

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// serveSFTP is sandbox-sftp. What it may do to files is what its user may, in the
// sandbox's view and under the policy's ruleset: there is no check here that could
// differ. The library bounds a packet by 256 KiB, and the descriptors of this process
// bound the handles.
func serveSFTP() error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	moved := newTransfers(here, sendTransfer)
	c := &sftpConn{moved: moved, closed: make(chan struct{})}
	server, err := sftp.NewServer(c)
	if err != nil {
		return err
	}
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, unix.SIGHUP, unix.SIGTERM)
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	select {
	case err = <-served:
	case <-c.closed: // the library gives up, and may still wait for input
		err = errors.New("the client does not speak SFTP, or has gone")
	case <-hangUp:
	}
	moved.end()
	return err
}

// sftpConn is descriptors 0 and 1, watched.
type sftpConn struct {
	moved  *transfers
	closed chan struct{}
	once   sync.Once
}

func (c *sftpConn) Read(p []byte) (int, error) {
	n, err := os.Stdin.Read(p)
	c.moved.requests.feed(p[:n])
	return n, err
}

// Write tells of an answer before the client has it, which may act on it at once.
func (c *sftpConn) Write(p []byte) (int, error) {
	c.moved.responses.feed(p)
	return os.Stdout.Write(p)
}

func (c *sftpConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// Transfer is what BuiltinSFTP tells of one file: it is said by a process of the
// sandbox, so a record of it is no proof.
type Transfer struct {
	Op TransferOp
	// Path is absolute, as the client named it, and any bytes.
	Path  string
	Bytes uint64
	// Cut says that the session ended before the file was closed.
	Cut bool
	// Last says that MaxTransfers were told, and more are not.
	Last bool
}

// TransferOp is the direction of a Transfer, seen from the client.
type TransferOp string

// Directions of a Transfer.
const (
	TransferRead  TransferOp = "read"
	TransferWrite TransferOp = "write"
)

// MaxTransfers bounds what one session tells.
const MaxTransfers = 10_000

// maxTransferPath is a working directory and a path, which the kernel bounds each.
const maxTransferPath = 2 * unix.PathMax

// transferReport is a Transfer on its way, one message for each.
type transferReport struct {
	Op    TransferOp `json:"op"`
	Path  []byte     `json:"path"` // need not be UTF-8
	Bytes uint64     `json:"bytes"`
	Cut   bool       `json:"cut,omitempty"`
}

var errBadTransfer = errors.New("no report of a transfer")

// sendTransfer waits where the agent is slow, so that nothing is lost; where there is
// no agent any more, or it has heard enough, it does not matter.
func sendTransfer(t Transfer) {
	text, err := json.Marshal(transferReport{Op: t.Op, Path: []byte(t.Path), Bytes: t.Bytes, Cut: t.Cut})
	if err == nil {
		_ = unix.Sendmsg(controlFD, text, nil, nil, unix.MSG_NOSIGNAL)
	}
}

func parseTransfer(message []byte) (Transfer, error) {
	var r transferReport
	if err := json.Unmarshal(message, &r); err != nil {
		return Transfer{}, errors.Join(errBadTransfer, err)
	}
	known := r.Op == TransferRead || r.Op == TransferWrite
	if !known || len(r.Path) == 0 || len(r.Path) > maxTransferPath || r.Path[0] != '/' {
		return Transfer{}, errBadTransfer
	}
	return Transfer{Op: r.Op, Path: string(r.Path), Bytes: r.Bytes, Cut: r.Cut}, nil
}

// readTransfers hands on what comes until the other end closes, says something else,
// or has said enough.
func readTransfers(conn io.Reader, told func(Transfer)) {
	buf := make([]byte, 2*maxTransferPath) // base64 needs four bytes for three
	for i := 1; i <= MaxTransfers; i++ {
		n, err := conn.Read(buf)
		if n == 0 || err != nil {
			return
		}
		t, err := parseTransfer(buf[:n])
		if err != nil {
			return
		}
		t.Last = i == MaxTransfers
		told(t)
	}
}
