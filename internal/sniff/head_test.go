package sniff

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func scanHeadSlowly(data []byte) (Head, error) {
	var s HeadScanner
	for i := range len(data) + 1 {
		head, err := s.Scan(data[:i:i])
		if !errors.Is(err, ErrMore) {
			return head, err
		}
	}
	return Head{}, ErrMore
}

func TestScanHead(t *testing.T) {
	const line = "CONNECT example.com:443 HTTP/1.1\r\n"
	connect := Head{Method: "CONNECT", Target: "example.com:443", Minor: 1, Size: len(line) + 2}
	with := func(h Head, change func(*Head)) Head { change(&h); return h }
	for _, tt := range []struct {
		name string
		data string
		want Head
		err  error
	}{
		{"nothing yet", "", Head{}, ErrMore},
		{"no end yet", line, Head{}, ErrMore},
		{"bare", line + "\r\n", connect, nil},
		{"pipelined", line + "\r\n\x16\x03\x01", connect, nil},
		{"http/1.0", "CONNECT example.com:443 HTTP/1.0\r\n\r\n", with(connect, func(h *Head) { h.Minor = 0 }), nil},
		{"host", line + "hOsT: \texample.com:443 \r\nX: a\tb\xe9\r\n\r\n", with(connect, func(h *Head) {
			h.Host, h.HasHost, h.Size = "example.com:443", true, 70
		}), nil},
		{"empty host", line + "Host:\r\n\r\n", with(connect, func(h *Head) { h.HasHost, h.Size = true, len(line)+9 }), nil},
		{"length of zero", line + "Content-Length: 0\r\n\r\n", with(connect, func(h *Head) { h.Size = len(line) + 21 }), nil},
		{"post with a body", "POST http://a/ HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", Head{Method: "POST", Target: "http://a/", Minor: 1, Size: 46}, nil},

		{"bare lf", "CONNECT example.com:443 HTTP/1.1\n\n", Head{}, ErrHead},
		{"bare lf at the end", line + "\n", Head{}, ErrHead},
		{"bare lf in a field", line + "A: b\nHost: other\r\n\r\n", Head{}, ErrHead},
		{"bare cr", line + "A: b\rc\r\n\r\n", Head{}, ErrHead},
		{"cr cr lf", line + "\r\r\n", Head{}, ErrHead},
		{"folded", line + "A: b\r\n c\r\n\r\n", Head{}, ErrHead},
		{"folded at once", line + " A: b\r\n\r\n", Head{}, ErrHead},
		{"folded with a tab", line + "A: b\r\n\tc: d\r\n\r\n", Head{}, ErrHead},
		{"blank before the colon", line + "Host : a\r\n\r\n", Head{}, ErrHead},
		{"no colon", line + "Host\r\n\r\n", Head{}, ErrHead},
		{"no name", line + ": a\r\n\r\n", Head{}, ErrHead},
		{"nul in the target", "CONNECT example.com\x00.evil:443 HTTP/1.1\r\n\r\n", Head{}, ErrHead},
		{"nul in a value", line + "A: \x00\r\n\r\n", Head{}, ErrHead},
		{"escape in a value", line + "A: \x1b[31m\r\n\r\n", Head{}, ErrHead},
		{"del", line + "A: \x7f\r\n\r\n", Head{}, ErrHead},
		{"utf-8 in the target", "CONNECT ex\u00e4mple.com:443 HTTP/1.1\r\n\r\n", Head{}, ErrHead},
		{"tab in the request line", "CONNECT\texample.com:443 HTTP/1.1\r\n\r\n", Head{}, ErrHead},
		{"two blanks", "CONNECT  example.com:443 HTTP/1.1\r\n\r\n", Head{}, ErrHead},
		{"blank in the target", "CONNECT example.com:443 x HTTP/1.1\r\n\r\n", Head{}, ErrHead},
		{"http/0.9", "CONNECT example.com:443\r\n\r\n", Head{}, ErrHead},
		{"http/1.2", "CONNECT example.com:443 HTTP/1.2\r\n\r\n", Head{}, ErrHead},
		{"http/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Head{}, ErrHead},
		{"lower-case version", "CONNECT example.com:443 http/1.1\r\n\r\n", Head{}, ErrHead},
		{"empty line first", "\r\n" + line + "\r\n", Head{}, ErrHead},
		{"two hosts", line + "Host: a\r\nHost: a\r\n\r\n", Head{}, ErrHead},
		{"two lengths", "POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n", Head{}, ErrHead},
		{"length list", "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", Head{}, ErrHead},
		{"signed length", "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", Head{}, ErrHead},
		{"length and encoding", "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Head{}, ErrHead},
		{"connect with a length", line + "Content-Length: 3\r\n\r\nabc", Head{}, ErrHead},
		{"connect with an encoding", line + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Head{}, ErrHead},
		{"tls", "\x16\x03\x01", Head{}, ErrHead},
		{"socks4", "\x04\x01", Head{}, ErrHead},
		{"socks5", "\x05\x01\x00", Head{}, ErrHead},
		{"too long", line + "A: " + strings.Repeat("a", MaxHead), Head{}, ErrHead},
		{"one over", line + "A: " + strings.Repeat("a", MaxHead-len(line)-6) + "\r\n\r\n", Head{}, ErrHead},
		{"just fits", line + "A: " + strings.Repeat("a", MaxHead-len(line)-7) + "\r\n\r\n", with(connect, func(h *Head) { h.Size = MaxHead }), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s HeadScanner
			got, err := s.Scan([]byte(tt.data))
			if !errors.Is(err, tt.err) {
				t.Fatalf("Scan: %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			slow, slowErr := scanHeadSlowly([]byte(tt.data))
			if slow != got || !errors.Is(slowErr, tt.err) {
				t.Errorf("byte by byte: %+v, %v", slow, slowErr)
			}
		})
	}
}

// FuzzHead compares with net/http, which is laxer: where both read a request,
// they must read the same.
func FuzzHead(f *testing.F) {
	f.Add([]byte("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n\x16\x03\x01"))
	f.Add([]byte("CONNECT [2001:db8::1]:443 HTTP/1.0\r\nContent-Length: 0\r\n\r\n"))
	f.Add([]byte("POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.1\nHost: a\r\n b\r\n\r\n"))
	f.Add([]byte("\x05\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s HeadScanner
		head, err := s.Scan(data)
		slow, slowErr := scanHeadSlowly(data)
		if slow != head || err != nil != (slowErr != nil) || err != nil && err.Error() != slowErr.Error() {
			t.Fatalf("at once: %+v, %v; byte by byte: %+v, %v", head, err, slow, slowErr)
		}
		if err != nil {
			if head != (Head{}) || errors.Is(err, ErrMore) && len(data) > MaxHead {
				t.Fatalf("%+v with %v after %d bytes", head, err, len(data))
			}
			return
		}
		if !bytes.HasSuffix(data[:head.Size], []byte("\r\n\r\n")) || bytes.Count(data[:head.Size], []byte("\n")) != bytes.Count(data[:head.Size], []byte("\r\n")) {
			t.Fatalf("size %d is not the end of the head", head.Size)
		}
		// What follows is no part of it, and changes nothing.
		var whole HeadScanner
		if again, err := whole.Scan(append(bytes.Clone(data[:head.Size]), "\r\n\r\nGET / HTTP/1.1"...)); err != nil || again != head {
			t.Fatalf("with other bytes behind it: %+v, %v", again, err)
		}
		compareHead(t, data[:head.Size], head)
	})
}

// compareHead: where net/http reads the head, it reads the same, and ends where the
// scan does.
func compareHead(t *testing.T, data []byte, head Head) {
	t.Helper()
	const behind = "behind the head"
	in := bufio.NewReader(io.MultiReader(bytes.NewReader(data), strings.NewReader(behind)))
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	if req.Method != head.Method || req.RequestURI != head.Target || req.ProtoMajor != 1 || req.ProtoMinor != head.Minor {
		t.Fatalf("net/http reads %s %q %s, the scan %+v", req.Method, req.RequestURI, req.Proto, head)
	}
	// The authority of a target, where it has one, comes before the field there.
	if req.URL.Host == "" && req.Host != head.Host {
		t.Fatalf("net/http reads the host %q, the scan %+v", req.Host, head)
	}
	if req.Method == http.MethodConnect && (req.ContentLength > 0 || req.TransferEncoding != nil) {
		t.Fatalf("a CONNECT with a body of %d, %q", req.ContentLength, req.TransferEncoding)
	}
	if len(req.TransferEncoding) > 0 && bytes.Contains(bytes.ToLower(data), []byte("\ncontent-length:")) {
		t.Fatalf("two ways to tell the end of the body: %q", data)
	}
	if rest, err := io.ReadAll(in); err != nil || string(rest) != behind {
		t.Fatalf("net/http leaves %q behind a head of %d bytes", rest, head.Size)
	}
}

func BenchmarkHead(b *testing.B) {
	data := []byte("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nUser-Agent: curl/8.5.0\r\nProxy-Connection: Keep-Alive\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		var s HeadScanner
		if _, err := s.Scan(data); err != nil {
			b.Fatal(err)
		}
	}
}
