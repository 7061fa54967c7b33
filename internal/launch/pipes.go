package launch

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Pipes are the streams of a command that has no terminal, for a caller that is none
// either, such as a channel of SSH. Close must be called, also when the command was
// never started.
type Pipes struct {
	// Stdio is for Command.
	Stdio [3]*os.File

	// Stdin is written to; to close it is the command's end of file.
	Stdin *os.File
	// Stdout and Stderr are read to the end of file, which comes when nothing in the
	// sandbox holds the other end, or see StopReading. To close one gives SIGPIPE to
	// who goes on writing.
	Stdout, Stderr *os.File
}

// PipeStdio makes the three pipes.
func PipeStdio() (_ *Pipes, err error) {
	p := &Pipes{}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.Stdio[0], p.Stdin, err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.Stdout, p.Stdio[1], err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.Stderr, p.Stdio[2], err = os.Pipe(); err != nil {
		return nil, err
	}
	// Scripts open /dev/stderr, which is to open the pipe anew: whoever gets to it there
	// has it already.
	for _, f := range p.Stdio {
		if err := f.Chmod(0o666); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Started closes what only the command holds now, so that its end is seen. It is
// called after Exec, whether or not that succeeded.
func (p *Pipes) Started() {
	closeAll(p.Stdio[:])
	p.Stdio = [3]*os.File{}
}

// StopReading ends the reads of Stdout and Stderr, with os.ErrDeadlineExceeded, when a
// bound for the last output has passed: what a command has left in the background may
// hold them open for ever. It is called when the command has ended.
func (p *Pipes) StopReading() {
	deadline := time.Now().Add(flushTimeout)
	_ = p.Stdout.SetReadDeadline(deadline)
	_ = p.Stderr.SetReadDeadline(deadline)
}

// maxRest bounds what ReadRest reads: more than a pipe or a terminal holds, so that who
// goes on writing does not keep it going.
const maxRest = 1 << 20

// ReadRest hands on what is in a stream whose reads have ended by StopReading, without
// waiting for more: who took the output may have been slower than the bound, and what a
// command wrote before its end is not lost for that.
func ReadRest(f *os.File, take func([]byte) error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for total := 0; total < maxRest; {
		n := 0
		if err := raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) }); err != nil || n <= 0 {
			return
		}
		if take(buf[:n]) != nil {
			return
		}
		total += n
	}
}

// Close closes all that is open, and ends reads and writes that wait. It may be
// called more than once.
func (p *Pipes) Close() {
	p.Started()
	closeAll([]*os.File{p.Stdin, p.Stdout, p.Stderr})
}

// outlivesAgent reports whether a stream means the same when the agent has gone.
func outlivesAgent(f *os.File) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	var null unix.Stat_t
	if err := unix.Stat(os.DevNull, &null); err != nil {
		return false
	}
	isNull := st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == null.Rdev
	return isNull || st.Mode&unix.S_IFMT == unix.S_IFREG
}
