// Package transfer copies files and directories between this host and a sandbox,
// over SFTP.
//
// The server runs in the sandbox and may send anything. What it calls files is
// never taken as a path: names with a slash are refused, and all is written below
// an os.Root, which no name and no symbolic link leads out of. Symbolic links of a
// sandbox are not made here, since others would follow them later; nor are devices,
// sockets and bits for another user's rights.
//
// How the server is reached is not known here.
package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"

	"github.com/pkg/sftp"
)

// maxDepth bounds the directories within directories.
const maxDepth = 128

// ErrStart: there is nobody who speaks SFTP.
var ErrStart = errors.New("no SFTP server answers")

// errTooDeep: directories within directories without an end in sight.
var errTooDeep = fmt.Errorf("more than %d directories within another", maxDepth)

// Copy is one copy, of any number of files.
type Copy struct {
	client *sftp.Client
	warn   func(string)
	bytes  atomic.Int64
	name   atomic.Pointer[string]
}

// Start begins to talk to a server; close ends it, and comes last. What is left out of
// a copy is told to warn.
func Start(out io.Reader, in io.WriteCloser, warn func(string)) (_ *Copy, end func() error, err error) {
	client, err := sftp.NewClientPipe(out, in, sftp.UseConcurrentWrites(true))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	return &Copy{client: client, warn: warn}, client.Close, nil
}

// Done returns which file is being copied, and how many bytes of all were. It may be
// called meanwhile.
func (c *Copy) Done() (name string, bytes int64) {
	if p := c.name.Load(); p != nil {
		name = *p
	}
	return name, c.bytes.Load()
}

func (c *Copy) begin(name string) { c.name.Store(&name) }

// To writes a file of the sandbox's to out.
func (c *Copy) To(out io.Writer, remote string) error {
	c.begin(remote)
	file, err := c.client.Open(remote)
	if err != nil {
		return whose(remote, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return whose(remote, err)
	}
	if !info.Mode().IsRegular() {
		return whose(remote, errors.New("is not a regular file"))
	}
	_, err = file.WriteTo(counted{out, &c.bytes})
	return err
}

// From writes a file in the sandbox of what in has.
func (c *Copy) From(in io.Reader, remote string) error {
	c.begin(remote)
	file, err := c.client.Create(remote)
	if err != nil {
		return whose(remote, err)
	}
	_, err = file.ReadFromWithConcurrency(io.TeeReader(in, counted{io.Discard, &c.bytes}), 1)
	return errors.Join(err, whose(remote, file.Close()))
}

// whose says that an error is about a file in the sandbox.
func whose(remote string, err error) error {
	if err == nil {
		return nil
	}
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("in the sandbox: %q: %w", remote, err)
}

// counted counts what is written.
type counted struct {
	io.Writer
	bytes *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// isName reports whether a server's word for an entry of a directory can be one.
func isName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// contents reports whether a path asks for what is in a directory, and not for itself:
// there is no name that a copy of it would have.
func contents(path string) bool {
	switch last := path[strings.LastIndexByte(path, '/')+1:]; last {
	case ".", "..":
		return true
	}
	return strings.Trim(path, "/") == ""
}
