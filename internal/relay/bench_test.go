package relay

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// discard is a sink that keeps nothing.
type discard struct{}

func (discard) Emit(*flow.Record) {}

// newBench returns a fixture whose upstream is served by serve.
func newBench(b *testing.B, serve func(*net.TCPListener)) *fixture {
	f := newFixture(b, func(_ *fixture, cfg *Config) {
		cfg.Sink = discard{}
		cfg.MaxConns = 1 << 16
	})
	go serve(f.upstream)
	return f
}

// ratio runs the same work against the upstream itself and through the relay,
// in turns, and reports how much of the direct speed is left.
func ratio(b *testing.B, f *fixture, work func(b *testing.B, to netip.AddrPort)) {
	b.Helper()
	direct, relayed := f.upstream.Addr().(*net.TCPAddr).AddrPort(), f.capture.Addr().(*net.TCPAddr).AddrPort()
	work(b, direct) // both paths warm
	work(b, relayed)
	var spent [2]time.Duration
	for b.Loop() {
		for i, to := range []netip.AddrPort{direct, relayed} {
			start := time.Now()
			work(b, to)
			spent[i] += time.Since(start)
		}
	}
	b.ReportMetric(float64(spent[0])/float64(spent[1]), "of-direct")
	b.ReportMetric(float64(spent[0].Microseconds())/float64(b.N), "direct-µs/op")
	b.ReportMetric(float64(spent[1].Microseconds())/float64(b.N), "relayed-µs/op")
	b.ReportMetric(0, "ns/op") // both together: says nothing
}

func dial(b *testing.B, to netip.AddrPort) *net.TCPConn {
	b.Helper()
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		b.Fatal(err)
	}
	return conn
}

// echo answers each read.
func echo(l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 4096)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				if _, err := conn.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// BenchmarkConnect: connect, one request and its answer, close.
func BenchmarkConnect(b *testing.B) {
	ratio(b, newBench(b, echo), func(b *testing.B, to netip.AddrPort) {
		conn := dial(b, to)
		exchange(b, conn, make([]byte, 512))
		conn.Close()
	})
}

func exchange(b *testing.B, conn *net.TCPConn, buf []byte) {
	if _, err := conn.Write(buf); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(conn, buf); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkKeepAlive: one request and its answer on an open connection, of a
// server that only echoes and of net/http.
func BenchmarkKeepAlive(b *testing.B) {
	b.Run("echo", func(b *testing.B) {
		conns := map[netip.AddrPort]*net.TCPConn{}
		buf := make([]byte, 512)
		ratio(b, newBench(b, echo), func(b *testing.B, to netip.AddrPort) {
			if conns[to] == nil {
				conns[to] = dial(b, to)
				b.Cleanup(func() { conns[to].Close() })
			}
			exchange(b, conns[to], buf)
		})
	})
	b.Run("http", func(b *testing.B) {
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Write(make([]byte, 1024))
		})}
		b.Cleanup(func() { server.Close() })
		client := &http.Client{Transport: &http.Transport{}}
		b.Cleanup(client.CloseIdleConnections)
		ratio(b, newBench(b, func(l *net.TCPListener) { server.Serve(l) }), func(b *testing.B, to netip.AddrPort) {
			res, err := client.Get("http://" + to.String() + "/")
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		})
	})
}

// BenchmarkBulk: 64 MiB on one connection from the upstream.
func BenchmarkBulk(b *testing.B) {
	const size = 64 << 20
	chunk := make([]byte, 256<<10)
	f := newBench(b, func(l *net.TCPListener) {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			for sent := 0; sent < size && err == nil; sent += len(chunk) {
				_, err = conn.Write(chunk)
			}
			conn.Close()
		}
	})
	b.SetBytes(2 * size)
	into := make([]byte, 256<<10)
	ratio(b, f, func(b *testing.B, to netip.AddrPort) {
		conn := dial(b, to)
		defer conn.Close()
		total := 0
		for {
			n, err := conn.Read(into)
			total += n
			if err == io.EOF && total == size {
				return
			}
			if err != nil {
				b.Fatalf("%d bytes: %v", total, err)
			}
		}
	})
}

// BenchmarkIdle reports what one idle relayed connection costs the agent's
// process: all ends of it are here, so the upstream's and the client's sockets
// are counted without the relay first and taken off.
func BenchmarkIdle(b *testing.B) {
	const conns = 500
	accepted := make(chan *net.TCPConn, conns)
	f := newBench(b, func(l *net.TCPListener) {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			accepted <- conn
		}
	})
	measure := func(to netip.AddrPort) (bytes, files, goroutines float64) {
		held := make([]*net.TCPConn, 0, 2*conns)
		m0, f0, g0 := memory(), openFiles(b), runtime.NumGoroutine()
		for range conns {
			client := dial(b, to)
			server := <-accepted
			for range 2 { // some traffic each way
				exchangePair(b, client, server)
			}
			held = append(held, client, server)
		}
		bytes = float64(memory()-m0) / conns
		files = float64(openFiles(b)-f0) / conns
		goroutines = float64(runtime.NumGoroutine()-g0) / conns
		for _, conn := range held {
			conn.Close()
		}
		for f.relay.Live() > 0 {
			time.Sleep(time.Millisecond)
		}
		return bytes, files, goroutines
	}
	var bytes, files, goroutines float64
	for b.Loop() {
		b0, f0, g0 := measure(f.upstream.Addr().(*net.TCPAddr).AddrPort())
		b1, f1, g1 := measure(f.capture.Addr().(*net.TCPAddr).AddrPort())
		bytes, files, goroutines = b1-b0, f1-f0, g1-g0
	}
	b.ReportMetric(bytes, "B/conn")
	b.ReportMetric(files, "files/conn")
	b.ReportMetric(goroutines, "goroutines/conn")
	b.ReportMetric(0, "ns/op")
}

func exchangePair(b *testing.B, client, server *net.TCPConn) {
	buf := make([]byte, 512)
	for _, way := range [][2]*net.TCPConn{{client, server}, {server, client}} {
		if _, err := way[0].Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], buf); err != nil {
			b.Fatal(err)
		}
	}
}

// memory returns the bytes of live heap and of stacks.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
