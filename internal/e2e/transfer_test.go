package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// transferPort is where transferServer listens.
const transferPort = 9001

// transferred is what the server saw of one transfer.
type transferred struct {
	sent, received       int64
	sentSum, receivedSum string
	err                  error
}

// transferServer sends n bytes that cannot be guessed and half-closes, while it
// reads until the client has half-closed too.
func (f *fixture) transferServer(n int64) <-chan transferred {
	f.t.Helper()
	done := make(chan transferred, 8)
	err := f.env.Serve(transferPort, func(conn net.Conn) {
		var got transferred
		received := sha256.New()
		read := make(chan error, 1)
		go func() {
			var err error
			got.received, err = io.Copy(received, conn)
			read <- err
		}()
		sent := sha256.New()
		got.sent, got.err = io.Copy(io.MultiWriter(conn, sent), io.LimitReader(rand.NewChaCha8([32]byte{2}), n))
		if got.err == nil {
			got.err = conn.(*net.TCPConn).CloseWrite()
		}
		if err := <-read; got.err == nil {
			got.err = err
		}
		got.sentSum, got.receivedSum = hex.EncodeToString(sent.Sum(nil)), hex.EncodeToString(received.Sum(nil))
		done <- got
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

// TestLargeTransfers moves much in both directions at once, each of which ends by
// a half-close: captured and through the explicit proxy.
func TestLargeTransfers(t *testing.T) {
	testenv.Require(t, "curl")
	mebibytes := int64(256)
	if testing.Short() {
		mebibytes = 16
	}
	f := newFixtureWith(t, testenv.Config{NoWitness: true})
	probe, curl := f.tool(toolGo), realPath(t, "curl")
	done := f.transferServer(mebibytes << 20)

	// Each family has its own limit of what one packet of loopback may hold.
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			r := f.sh(f.allow([]int{transferPort}, probe),
				fmt.Sprintf("%s -net %s -n %d transfer %s:%d", probe, network, mebibytes, allowedName, transferPort))
			checkTransfer(t, sawIn(t, r.stdout), done, mebibytes<<20)
			r.one(t, allowedName).check(t, record{Verdict: "allow", Mode: "transparent",
				Sent: mebibytes << 20, Received: mebibytes << 20})
			if rejected := r.of("kernel"); len(rejected) != 0 {
				t.Errorf("hooks rejected: %+v", rejected)
			}
		})
	}
	t.Run("by the proxy", func(t *testing.T) {
		n := mebibytes << 20
		script := fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x > /tmp/up && "+
			"%s -sS --http1.1 -T /tmp/up -o /tmp/down https://%s/echo && cmp /tmp/up /tmp/down", n, curl, allowedName)
		r := f.sh(f.allow([]int{443}, curl), script)
		if r.status != 0 {
			t.Errorf("status %d: %s", r.status, r.stderr)
		}
		rec := r.one(t, allowedName)
		rec.check(t, record{Verdict: "allow", Mode: "connect"})
		// TLS adds its own to what is counted.
		if most := n + n/100 + 1<<16; rec.Sent < n || rec.Sent > most || rec.Received < n || rec.Received > most {
			t.Errorf("record says %d bytes sent and %d received, want %d and a little", rec.Sent, rec.Received, n)
		}
	})
}

// checkTransfer compares what the two ends saw.
func checkTransfer(t *testing.T, client saw, done <-chan transferred, n int64) {
	t.Helper()
	select {
	case server := <-done:
		if server.err != nil || client.Error != "" {
			t.Errorf("server: %v, client: %q", server.err, client.Error)
		}
		if server.received != n || client.Received != n {
			t.Errorf("server received %d bytes, client %d, want %d", server.received, client.Received, n)
		}
		if server.sentSum != client.Sum || server.receivedSum != client.SentSum {
			t.Errorf("checksums: server sent %s, client received %s; client sent %s, server received %s",
				server.sentSum, client.Sum, client.SentSum, server.receivedSum)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server is not done")
	}
}
