package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// connectRaw makes a connection that says nothing.
func connectRaw(t *testing.T, server *Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", server.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// wantClosed waits until the server closes a connection.
func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection was not closed: %v", err)
	}
}

// answers reports whether a client of root's is served.
func answers(t *testing.T, server *Server) {
	t.Helper()
	server.SetServing(true)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := dial(t, server).Serving(ctx); err != nil {
		t.Error(err)
	}
}

// TestGarbage sends what is no HTTP/2.
func TestGarbage(t *testing.T) {
	server := serve(t, ServerConfig{})
	for _, garbage := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		strings.Repeat("\x00", 1<<16),
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 1<<16), // a frame of 16 MiB
	} {
		conn := connectRaw(t, server)
		if _, err := io.WriteString(conn, garbage); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		wantClosed(t, conn)
	}
	answers(t, server)
}

// TestSlowHandshake says one byte and no more.
func TestSlowHandshake(t *testing.T) {
	t.Parallel()
	server := serve(t, ServerConfig{})
	conn := connectRaw(t, server)
	if _, err := io.WriteString(conn, "P"); err != nil {
		t.Fatal(err)
	}
	answers(t, server)
	begin := time.Now()
	wantClosed(t, conn)
	if took := time.Since(begin); took < handshakeTimeout/2 || took > 2*handshakeTimeout {
		t.Errorf("closed after %v, want about %v", took, handshakeTimeout)
	}
}

// TestStrangerStays has a stranger keep a connection for as long as it may.
func TestStrangerStays(t *testing.T) {
	t.Parallel()
	server := serve(t, ServerConfig{})
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if server.listener.admit(ours, peerInfo{Peer: Peer{UID: stranger}}) == nil {
		t.Fatal("not admitted")
	}
	begin := time.Now()
	wantClosed(t, theirs)
	if took := time.Since(begin); took < strangerTime/2 || took > 2*strangerTime {
		t.Errorf("closed after %v, want about %v", took, strangerTime)
	}
}

func socketPair() (a, b *net.UnixConn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			return nil, nil, err
		}
		conns[i] = conn.(*net.UnixConn)
	}
	return conns[0], conns[1], nil
}

// TestLargeHeader sends more metadata than a call may have.
func TestLargeHeader(t *testing.T) {
	client := dial(t, serve(t, ServerConfig{Services: Services{Agent: statusOf{answer: func(context.Context) (*pb.AgentStatus, error) {
		return &pb.AgentStatus{}, nil
	}}}}))
	for _, test := range []struct {
		size int
		ok   bool
	}{{8 << 10, true}, {maxHeader, false}} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x", letters(test.size))
		if _, err := client.Agent.GetStatus(ctx, &pb.GetStatusRequest{}); (err == nil) != test.ok {
			t.Errorf("%d bytes of metadata: %v", test.size, err)
		}
	}
}

// TestManyConnections makes more than there may be: those over the bound are
// closed, and an end makes room.
func TestManyConnections(t *testing.T) {
	server := serve(t, ServerConfig{})
	info := peerInfo{admitted: true, Peer: Peer{UID: 1000}}
	stranger := peerInfo{Peer: Peer{UID: 1001}}
	root := peerInfo{admitted: true}
	admitted := func(info peerInfo, n int) (conns []*peerConn) {
		for range n {
			if conn := server.listener.admit(&net.UnixConn{}, info); conn != nil {
				conns = append(conns, conn)
			}
		}
		return conns
	}
	mine := admitted(info, maxConnectionsUID+10)
	if len(mine) != maxConnectionsUID {
		t.Errorf("%d connections of one user, want %d", len(mine), maxConnectionsUID)
	}
	if n := len(admitted(stranger, 100)); n != maxConnectionsStranger {
		t.Errorf("%d connections of strangers, want %d", n, maxConnectionsStranger)
	}
	others := 0
	for uid := range uint32(100) {
		others += len(admitted(peerInfo{admitted: true, Peer: Peer{UID: 2000 + uid}}, maxConnectionsUID))
	}
	if want := maxConnections - maxConnectionsUID - maxConnectionsStranger; others != want {
		t.Errorf("%d connections of all others, want %d", others, want)
	}
	if n := len(admitted(root, 1)); n != 1 {
		t.Error("others keep root out")
	}
	mine[0].drop()
	mine[0].drop() // counts once
	if n := len(admitted(info, 2)); n != 1 {
		t.Errorf("%d connections for one that ended", n)
	}
}

// TestConnectionsOfRoot makes them for real. Who is admitted is greeted at once.
func TestConnectionsOfRoot(t *testing.T) {
	requireRoot(t)
	const many = maxConnections + 500
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 2*many+100 {
		testenv.SkipOn(t, &testenv.Skip{Reason: fmt.Sprintf("needs %d descriptors, %d are allowed", 2*many+100, limit.Cur)})
	}
	server := serve(t, ServerConfig{})
	begin := time.Now()
	var conns []net.Conn
	for range many {
		conns = append(conns, connectRaw(t, server))
	}
	greeted := 0
	for _, conn := range conns {
		conn.SetReadDeadline(time.Now().Add(patience))
		switch n, err := conn.Read(make([]byte, 1)); {
		case n == 1:
			greeted++
		case !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET):
			t.Fatal(err)
		}
	}
	// On a machine so slow that the first were given up meanwhile, others had their room.
	if greeted != maxConnections && time.Since(begin) < handshakeTimeout || greeted < maxConnections {
		t.Errorf("%d connections were admitted, want %d", greeted, maxConnections)
	}
	if stats := server.Stats(); stats.RefusedConnections != uint64(many-greeted) || stats.Connections > maxConnections {
		t.Errorf("counts = %+v", stats)
	}
	for _, conn := range conns {
		conn.Close()
	}
	wait(t, server, func() bool { return len(server.listener.conns) == 0 })
	answers(t, server)
}

// wait looks at a server's listener until it is as it must become.
func wait(t *testing.T, server *Server, done func() bool) {
	t.Helper()
	for begin := time.Now(); ; runtime.Gosched() {
		server.listener.mu.Lock()
		ok := done()
		server.listener.mu.Unlock()
		if ok {
			return
		}
		if time.Since(begin) > patience {
			t.Fatal("the listener keeps connections that have ended")
		}
	}
}

// TestManyCalls has one user make more calls at a time than one may.
func TestManyCalls(t *testing.T) {
	c := &calls{count: make(map[uint32]int)}
	for range maxCallsUID {
		if !c.begin(1000) {
			t.Fatal("refused within the bound")
		}
	}
	if c.begin(1000) {
		t.Error("more than the bound")
	}
	if !c.begin(1001) || !c.begin(0) {
		t.Error("one user keeps others out")
	}
	c.end(1000)
	if !c.begin(1000) {
		t.Error("an end makes no room")
	}
	for range maxCallsUID {
		c.end(1000)
	}
	if _, ok := c.count[1000]; ok {
		t.Error("the count of a user without calls is kept")
	}
}

// TestStreamsOfAConnection wants calls beyond the bound of a connection to wait.
func TestStreamsOfAConnection(t *testing.T) {
	entered := make(chan struct{}, 2*maxStreams)
	server := serve(t, ServerConfig{Services: Services{Sandboxes: sandboxes{watch: func(stream grpc.ServerStreamingServer[pb.SandboxEvent]) error {
		entered <- struct{}{}
		<-stream.Context().Done()
		return nil
	}}}})
	client := dial(t, server)
	for range maxStreams {
		if _, err := client.Sandboxes.WatchSandboxes(t.Context(), &pb.WatchSandboxesRequest{}); err != nil {
			t.Fatal(err)
		}
		<-entered
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := client.Sandboxes.WatchSandboxes(ctx, &pb.WatchSandboxesRequest{})
	wantError(t, err, CodeDeadlineExceeded, "")
	if len(entered) > 0 {
		t.Error("a call beyond the bound was made")
	}
	answers(t, server) // on another connection
}
