package sniff

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scanSlowly shows the scanner one more byte at each call, up to its answer.
func scanSlowly(data []byte) (Hello, error) {
	var s HelloScanner
	for i := range len(data) + 1 {
		hello, err := s.Scan(data[:i:i])
		if !errors.Is(err, ErrMore) {
			return hello, err
		}
	}
	return Hello{}, ErrMore
}

func TestScanHello(t *testing.T) {
	plain := helloBody(extension(extServerName, sni("example.com")))
	grease := helloBody(extension(extEncryptedClientHello, "\x00abc"), extension(extServerName, sni("outer.example")))
	for _, tt := range []struct {
		name string
		data []byte
		want Hello
		err  error
	}{
		{"nothing yet", nil, Hello{}, ErrMore},
		{"one record", record(message(plain)), Hello{SNI: "example.com", HasSNI: true}, nil},
		{"followed by early data", append(record(message(plain)), "\x17\x03\x03\x00\x01x"...), Hello{SNI: "example.com", HasSNI: true}, nil},
		{"records of 7 bytes", records(message(plain), 7), Hello{SNI: "example.com", HasSNI: true}, nil},
		{"records of 3 bytes", records(message(plain), 3), Hello{SNI: "example.com", HasSNI: true}, nil},
		{"too many records", records(message(plain), 1), Hello{}, ErrHello},
		{"ech", record(message(grease)), Hello{SNI: "outer.example", HasSNI: true, ECH: true}, nil},
		{"raw bytes are kept", record(message(helloBody(extension(0, sni("A\xff\x00.Example."))))), Hello{SNI: "A\xff\x00.Example.", HasSNI: true}, nil},
		{"no sni", record(message(helloBody(extension(43, "\x02\x03\x04")))), Hello{}, nil},
		{"no extensions", record(message(helloBase)), Hello{}, nil},
		{"cut short", record(message(plain))[:50], Hello{}, ErrMore},

		{"two snis", record(message(helloBody(extension(0, sni("a.example")), extension(0, sni("b.example"))))), Hello{}, ErrHello},
		{"two names in one", record(message(helloBody(extension(0, vec2("\x00"+vec2("a")+"\x00"+vec2("b")))))), Hello{}, ErrHello},
		{"other name type", record(message(helloBody(extension(0, vec2("\x01"+vec2("a")))))), Hello{}, ErrHello},
		{"empty name", record(message(helloBody(extension(0, vec2("\x00"+vec2("")))))), Hello{}, ErrHello},
		{"empty sni extension", record(message(helloBody(extension(0, "")))), Hello{}, ErrHello},
		{"bytes after the name", record(message(helloBody(extension(0, sni("a")+"x")))), Hello{}, ErrHello},
		{"two ech", record(message(helloBody(extension(0xfe0d, ""), extension(0xfe0d, "")))), Hello{}, ErrHello},
		{"extension cut short", record(message(helloBase + vec2("\x00\x00\x00\x05a"))), Hello{}, ErrHello},
		{"bytes after extensions", record(message(plain + "x")), Hello{}, ErrHello},
		{"bytes after the hello", record(message(plain) + "x"), Hello{}, ErrHello},
		{"odd cipher suites", record(message(helloBase[:35] + vec2("abc") + "\x01\x00")), Hello{}, ErrHello},
		{"body cut short", record(message(helloBase[:20])), Hello{}, ErrHello},
		{"over the bound", record("\x01\x00\x40\x00" + strings.Repeat("x", 100)), Hello{}, ErrHello},
		{"record over the bound", []byte("\x16\x03\x01\xff\xff\x01\x00\x40\x00"), Hello{}, ErrHello},
		{"alert within", append(records(message(plain), 60)[:65], "\x15\x03\x01\x00\x02\x01\x00"...), Hello{}, ErrHello},
		{"record of 3.0", append([]byte("\x16\x03\x00"), record(message(plain))[3:]...), Hello{SNI: "example.com", HasSNI: true}, nil},

		// What some server tolerates is no way around the scan.
		{"alert before", append([]byte("\x15\x03\x01\x00\x02\x01\x5a"), record(message(plain))...), Hello{}, ErrHello},
		{"empty record before", append([]byte("\x16\x03\x01\x00\x00"), record(message(plain))...), Hello{}, ErrHello},
		{"ccs before", append([]byte("\x14\x03\x03\x00\x01\x01"), record(message(plain))...), Hello{}, ErrHello},
		{"odd version", append([]byte("\x16\x05\x01"), record(message(plain))[3:]...), Hello{}, ErrHello},

		{"http", []byte("GET / HTTP/1.1\r\n"), Hello{}, ErrNotTLS},
		{"ssh", []byte("S"), Hello{}, ErrNotTLS},
		{"postgres", []byte("\x00\x00\x00\x08\x04\xd2\x16\x2f"), Hello{}, ErrNotTLS},
		{"a length of 0x316", []byte("\x16\x03\x00\x00\x01\x00\x00\x00"), Hello{}, ErrNotTLS},
		{"a length of 0x1016", []byte("\x16\x10"), Hello{}, ErrNotTLS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s HelloScanner
			got, err := s.Scan(tt.data)
			if !errors.Is(err, tt.err) {
				t.Fatalf("Scan: %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			slow, slowErr := scanSlowly(tt.data)
			if slow != got || !errors.Is(slowErr, tt.err) {
				t.Errorf("byte by byte: %+v, %v", slow, slowErr)
			}
		})
	}
}

// TestScanRealHello reads what real clients send.
func TestScanRealHello(t *testing.T) {
	want := Hello{SNI: "real.example", HasSNI: true}
	t.Run("crypto/tls", func(t *testing.T) {
		client, server := net.Pipe()
		defer server.Close()
		go tls.Client(client, &tls.Config{ServerName: want.SNI}).Handshake()
		checkStream(t, server, want)
	})
	t.Run("openssl", func(t *testing.T) {
		if _, err := exec.LookPath("openssl"); err != nil {
			t.Skip("openssl is not installed")
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		cmd := exec.Command("openssl", "s_client", "-connect", l.Addr().String(), "-servername", want.SNI)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		checkStream(t, conn, want)
		conn.Close()
		cmd.Wait()
	})
}

func checkStream(t *testing.T, conn net.Conn, want Hello) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var s HelloScanner
	var data []byte
	for {
		chunk := make([]byte, 100)
		n, err := conn.Read(chunk)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, chunk[:n]...)
		hello, err := s.Scan(data)
		if errors.Is(err, ErrMore) {
			continue
		}
		if err != nil || hello != want {
			t.Fatalf("Scan: %+v, %v, want %+v", hello, err, want)
		}
		return
	}
}

// FuzzHello compares with crypto/tls as a server: no hello that it reads may
// pass as something else, or with another name.
func FuzzHello(f *testing.F) {
	plain := message(helloBody(extension(extServerName, sni("example.com")), extension(43, "\x04\x03\x04\x03\x03")))
	f.Add(record(plain))
	f.Add(records(plain, 9))
	f.Add(append([]byte("\x15\x03\x01\x00\x02\x01\x5a"), record(plain)...))
	f.Add(append([]byte("\x16\x02\x01"), record(plain)[3:]...))
	f.Add(record(message(helloBody(extension(extEncryptedClientHello, "\x00abc")))))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s HelloScanner
		hello, err := s.Scan(data)
		slow, slowErr := scanSlowly(data)
		if slow != hello || err != nil != (slowErr != nil) || err != nil && err.Error() != slowErr.Error() {
			t.Fatalf("at once: %+v, %v; byte by byte: %+v, %v", hello, err, slow, slowErr)
		}
		if errors.Is(err, ErrMore) && len(data) >= MaxHello {
			t.Fatal("asks for more than MaxHello")
		}
		name, read := serverReads(data)
		if read && (errors.Is(err, ErrNotTLS) || errors.Is(err, ErrMore) || err == nil && hello.SNI != name) {
			t.Fatalf("a server reads %q, the scan said %+v, %v", name, hello, err)
		}
	})
}

// serverReads tells which server name crypto/tls reads from data.
func serverReads(data []byte) (name string, read bool) {
	errStop := errors.New("stop")
	config := &tls.Config{MinVersion: tls.VersionTLS10, GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		name, read = info.ServerName, true
		return nil, errStop
	}}
	tls.Server(&stubConn{Reader: bytes.NewReader(data)}, config).Handshake()
	return name, read
}

// stubConn reads from memory and forgets what is written.
type stubConn struct {
	net.Conn
	io.Reader
}

func (c *stubConn) Read(b []byte) (int, error)       { return c.Reader.Read(b) }
func (c *stubConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *stubConn) Close() error                     { return nil }
func (c *stubConn) SetWriteDeadline(time.Time) error { return nil }

func BenchmarkHello(b *testing.B) {
	plain := message(helloBody(extension(21, strings.Repeat("x", 400)), extension(extServerName, sni("example.com"))))
	for _, bb := range []struct {
		name string
		data []byte
	}{{"one record", record(plain)}, {"records of 16", records(plain, 16)}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var s HelloScanner
				if _, err := s.Scan(bb.data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The builders of hellos for tests.

var helloBase = "\x03\x03" + strings.Repeat("r", 32) + "\x00" + vec2("\x13\x01\xc0\x2f") + "\x01\x00"

func helloBody(extensions ...string) string { return helloBase + vec2(strings.Join(extensions, "")) }

func extension(kind uint16, data string) string {
	return string([]byte{byte(kind >> 8), byte(kind)}) + vec2(data)
}

func sni(name string) string { return vec2("\x00" + vec2(name)) }

func vec2(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

func message(body string) string {
	return string([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}) + body
}

func record(fragment string) []byte { return []byte("\x16\x03\x01" + vec2(fragment)) }

func records(message string, size int) []byte {
	var out []byte
	for len(message) > 0 {
		n := min(size, len(message))
		out = append(out, record(message[:n])...)
		message = message[n:]
	}
	return out
}
