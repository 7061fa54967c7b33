package launch

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/tty"
)

// socketPairFiles returns a stream socket and its other end.
func socketPairFiles(t *testing.T) (*os.File, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, other := os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "other")
	conn, err := net.FileConn(other)
	other.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); conn.Close() })
	return ours, conn.(*net.UnixConn)
}

// A command on three sockets sees pipes, and every byte and both ends of file go
// through.
func TestSocketsBecomePipes(t *testing.T) {
	n := start(t)
	socket, other := socketPairFiles(t)
	streams, err := SafeStdio([3]*os.File{socket, socket, socket})
	if err != nil {
		t.Fatal(err)
	}
	c := command("sh", "-c", "for i in 0 1 2; do stat -Lc %F /proc/self/fd/$i; done; cat; echo late >&2")
	c.Stdio, c.Terminal = streams.Stdio, streams.Terminal
	p, err := n.Exec(t.Context(), c)
	streams.Started()
	if err != nil {
		t.Fatal(err)
	}
	payload := strings.Repeat("0123456789abcdef", 1<<16)
	go func() {
		_, _ = io.WriteString(other, payload)
		_ = other.CloseWrite()
	}()
	got := make(chan string)
	want := strings.Repeat("fifo\n", 3) + payload + "late\n"
	go func() {
		buf := make([]byte, len(want))
		n, _ := io.ReadFull(other, buf)
		got <- string(buf[:n])
	}()
	if status, err := p.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Errorf("status %+v, %v", status, err)
	}
	if err := streams.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	if text := <-got; text != want {
		t.Errorf("%d bytes came back, want %d", len(text), len(want))
	}
}

// A socket that never says anything, and a descendant that holds the output, do
// not keep Finish.
func TestFinishIsBounded(t *testing.T) {
	n := start(t)
	socket, _ := socketPairFiles(t)
	streams, err := SafeStdio([3]*os.File{socket, socket, socket})
	if err != nil {
		t.Fatal(err)
	}
	c := command("sh", "-c", "sleep 1000 &")
	c.Stdio = streams.Stdio
	p, err := n.Exec(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := streams.Finish(ctx); err == nil {
		t.Error("Finish did not tell that output was cut off")
	}
	// The socket blocks, as before: others may share it.
	if flags, err := unix.FcntlInt(socket.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}

func TestSafeStdioKinds(t *testing.T) {
	master, slave, err := tty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	r, w := pipe(t)
	streams, err := SafeStdio([3]*os.File{r, slave, w})
	if err != nil {
		t.Fatal(err)
	}
	defer streams.Finish(t.Context())
	if streams.Terminal != [3]bool{false, true, false} || streams.Stdio != [3]*os.File{r, nil, w} {
		t.Errorf("got %+v", streams)
	}
}
