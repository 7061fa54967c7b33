package relay

import (
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestServerFirst(t *testing.T) {
	f := newFixture(t, nil)
	client, server := f.pair()
	send(t, server, "220 ready\r\n")
	expect(t, client, "220 ready\r\n")
	send(t, client, "QUIT\r\n")
	expect(t, server, "QUIT\r\n")
	server.Close()
	expectEOF(t, client)
	client.Close()
	f.want(f.base(func(r *flow.Record) { r.Sent, r.Received = 6, 11 }))
}

func TestHalfClose(t *testing.T) {
	for _, tt := range []struct {
		name   string
		client bool // who ends first
	}{{"client", true}, {"server", false}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, nil)
			first, second := f.pair()
			if !tt.client {
				first, second = second, first
			}
			send(t, first, "question")
			first.CloseWrite()
			expect(t, second, "question")
			expectEOF(t, second)
			send(t, second, "answer")
			expect(t, first, "answer")
			send(t, second, "more")
			second.Close()
			expect(t, first, "more")
			expectEOF(t, first)
			f.want(f.base(func(r *flow.Record) {
				r.Sent, r.Received = 8, 10
				if !tt.client {
					r.Sent, r.Received = 10, 8
				}
			}))
		})
	}
}

func TestHalfCloseIdle(t *testing.T) {
	f := newFixture(t, func(_ *fixture, cfg *Config) { cfg.HalfCloseIdle = 200 * time.Millisecond })
	client, server := f.pair()
	client.CloseWrite()
	expectEOF(t, server)
	for range 5 { // not silent: goes on beyond the bound
		time.Sleep(80 * time.Millisecond)
		send(t, server, "x")
		expect(t, client, "x")
	}
	expectReset(t, client)
	f.waitIdle()
	if _, err := server.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after the reset: %v", err)
	}
	f.want(f.base(func(r *flow.Record) {
		r.Engine, r.Reason, r.Detail, r.Received = flow.EngineRelay, flow.ReasonTimeout, "half-closed, and silent since", 5
	}))
}

// TestIdle: a connection that is open both ways has no limit, not even the one
// that was set while its hello was read.
func TestIdle(t *testing.T) {
	f := newFixture(t, func(_ *fixture, cfg *Config) {
		cfg.HalfCloseIdle, cfg.HelloTimeout, cfg.HeadTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	})
	client, server := f.pair()
	time.Sleep(150 * time.Millisecond) // no first byte yet
	send(t, client, "\x16")
	time.Sleep(10 * time.Millisecond)
	send(t, client, "\x20not TLS")
	expect(t, server, "\x16\x20not TLS")
	time.Sleep(150 * time.Millisecond)
	send(t, client, "ping")
	expect(t, server, "ping")
	send(t, server, "pong")
	expect(t, client, "pong")
}

func TestReset(t *testing.T) {
	for _, tt := range []struct {
		name   string
		client bool
	}{{"the program", true}, {"the upstream", false}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, nil)
			client, server := f.pair()
			send(t, client, "abc")
			expect(t, server, "abc")
			send(t, server, "de")
			expect(t, client, "de")
			if tt.client {
				reset(client)
				expectReset(t, server)
			} else {
				reset(server)
				expectReset(t, client)
			}
			f.want(f.base(func(r *flow.Record) { r.Sent, r.Received, r.Detail = 3, 2, "reset by "+tt.name }))
		})
	}
}

// TestTransfer moves much both ways at once, and checks every byte.
func TestTransfer(t *testing.T) {
	size := int64(256 << 20)
	if testing.Short() {
		size = 16 << 20
	}
	f := newFixture(t, nil)
	client, server := f.pair()
	for _, conn := range []net.Conn{client, server} {
		conn.SetDeadline(time.Now().Add(5 * patience))
	}
	var all sync.WaitGroup
	send := func(conn *net.TCPConn, seed byte) {
		if n, err := io.CopyN(conn, pattern(seed), size); err != nil {
			t.Errorf("sent %d: %v", n, err)
		}
		conn.CloseWrite()
	}
	receive := func(conn *net.TCPConn, seed byte) {
		got, want := crc32.NewIEEE(), crc32.NewIEEE()
		if n, err := io.Copy(got, conn); err != nil || n != size {
			t.Errorf("received %d: %v", n, err)
		}
		io.CopyN(want, pattern(seed), size)
		if got.Sum32() != want.Sum32() {
			t.Error("the checksums differ")
		}
	}
	all.Go(func() { send(client, 1) })
	all.Go(func() { send(server, 2) })
	all.Go(func() { receive(client, 2) })
	all.Go(func() { receive(server, 1) })
	all.Wait()
	f.want(f.base(func(r *flow.Record) { r.Sent, r.Received = size, size }))
}

// pattern is an endless stream that does not repeat in a buffer's length.
func pattern(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// TestResetInBulk: a side that breaks off within a transfer breaks the other,
// and what was moved is counted.
func TestResetInBulk(t *testing.T) {
	f := newFixture(t, nil)
	client, server := f.pair()
	written := make(chan error, 1)
	go func() {
		_, err := io.Copy(server, pattern(1))
		written <- err
	}()
	if _, err := io.CopyN(io.Discard, client, 8<<20); err != nil {
		t.Fatal(err)
	}
	reset(client)
	if r := f.record(); r.Received < 8<<20 || r.Sent != 0 || !strings.HasPrefix(r.Detail, "reset by ") || r.Verdict != flow.Allow {
		t.Errorf("%+v", r)
	}
	if err := <-written; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the other side wrote on: %v", err)
	}
}

// TestIdleCost: an idle connection holds two descriptors, also after bulk.
func TestIdleCost(t *testing.T) {
	f := newFixture(t, nil)
	f.pair()
	before := openFiles(t)
	const conns = 20
	for range conns {
		client, server := f.pair()
		go io.CopyN(server, pattern(1), 4<<20)
		if _, err := io.CopyN(io.Discard, client, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	// Two of the relay, two of the test. A pipe each would be two more; Go keeps
	// some idle ones for all, and closes those it drops when it collects garbage.
	held := func() int { runtime.GC(); return openFiles(t) - before }
	for deadline := time.Now().Add(patience); held() >= 6*conns; {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors for %d connections", held(), conns)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestSocketOptions: both sides of a relayed connection notice a dead peer, and
// delay no small segment.
func TestSocketOptions(t *testing.T) {
	f := newFixture(t, nil)
	first, _ := f.pair() // ServeCapture is at work now: what it sets is inherited
	reset(first)
	f.record()
	client, server := f.pair()
	send(t, client, "x")
	expect(t, server, "x")
	conns := f.relay.live.all()
	if len(conns) != 1 {
		t.Fatalf("%d connections", len(conns))
	}
	c := conns[0]
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, conn := range map[string]*net.TCPConn{"client": c.client, "upstream": c.upstream} {
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			for _, o := range []struct{ level, option int }{
				{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE}, {syscall.IPPROTO_TCP, syscall.TCP_NODELAY},
			} {
				if value, err := syscall.GetsockoptInt(int(fd), o.level, o.option); err != nil || value == 0 {
					t.Errorf("%s: option %d/%d is %d, %v", name, o.level, o.option, value, err)
				}
			}
			if idle, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE); name == "client" && idle != 120 {
				t.Errorf("client: idle %d, %v", idle, err)
			}
		})
	}
}
