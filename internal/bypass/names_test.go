package bypass

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// namesGroup: names that say one thing and lead to another (rows 15, 19 and 20).
func namesGroup() group {
	return group{name: "names", runner: client, stage: leadElsewhere, attempts: func() []attempt {
		return append(serverNameAttempts(), rebindingAttempts()...)
	}}
}

// serverNameAttempts name another server in TLS than the one they connect to.
func serverNameAttempts() []attempt {
	mismatch := told{reason: "sni_mismatch", mode: "transparent"}
	malformed := told{reason: "malformed_client_hello sni_mismatch", mode: "transparent"}
	allowed := told{reason: "allowed", verdict: "allow", mode: "transparent"}
	names := func(name func(in *intruder) string) func(*intruder) string {
		return func(in *intruder) string { return handshake(in.open, clientHello(name(in))) }
	}
	return []attempt{
		{row: 15, name: "other_name", want: reset, told: mismatch, try: names(func(in *intruder) string { return in.bad })},
		{row: 15, name: "other_open_name", want: reset, told: mismatch, try: names(func(*intruder) string { return "another.open.test" })},
		{row: 15, name: "name_with_suffix", want: reset, told: mismatch, try: names(func(in *intruder) string { return in.open + ".denied.test" })},
		{row: 15, name: "name_with_dot", want: reset, told: mismatch, try: func(in *intruder) string {
			return handshake(in.open, replaceName(in.open+"x", in.open+"."))
		}},
		{row: 15, name: "name_with_nul", want: reset, told: malformed, try: func(in *intruder) string {
			return handshake(in.open, replaceName(in.open+"xdenied.test", in.open+"\x00denied.test"))
		}},
		{row: 15, name: "byte_by_byte", want: reset, told: mismatch, try: func(in *intruder) string {
			var single [][]byte
			for _, b := range clientHello(in.bad)[0] {
				single = append(single, []byte{b})
			}
			return handshake(in.open, single)
		}},
		{row: 15, name: "in_many_records", want: reset, told: malformed, try: func(in *intruder) string {
			return handshake(in.open, [][]byte{inRecords(clientHello(in.bad)[0], 10)})
		}},
		{row: 15, name: "two_names", want: reset, told: malformed, try: func(in *intruder) string {
			return handshake(in.open, twoNames(in.open, in.bad))
		}},
		{row: 15, name: "cut_short", want: reset, told: malformed, try: func(in *intruder) string {
			return cutShort(in.open, clientHello(in.bad)[0])
		}},
		{row: 15, name: "encrypted_hello", want: reset, told: mismatch, try: encryptedHello},
		{row: 15, name: "terminal_escapes", want: reset, told: malformed, try: func(in *intruder) string {
			return handshake(in.open, replaceName("xx31mxxdenied.test", "\x1b[31m\n\"denied.test"))
		}},
		// The name comes from the address: none in TLS, or the same, is the target.
		{row: 15, name: "no_name", want: data, told: allowed, try: names(func(*intruder) string { return "" })},
		{row: 15, name: "same_name", want: data, told: allowed, try: names(func(in *intruder) string { return strings.ToUpper(in.open) })},
	}
}

// recorded keeps what a TLS client would send first.
type recorded struct {
	net.Conn
	sent bytes.Buffer
}

func (r *recorded) Write(p []byte) (int, error)      { return r.sent.Write(p) }
func (r *recorded) Read([]byte) (int, error)         { return 0, io.EOF }
func (r *recorded) SetDeadline(time.Time) error      { return nil }
func (r *recorded) SetReadDeadline(time.Time) error  { return nil }
func (r *recorded) SetWriteDeadline(time.Time) error { return nil }
func (r *recorded) Close() error                     { return nil }

// clientHello returns a hello with a server name, or without one.
func clientHello(name string) [][]byte { return helloOf(&tls.Config{ServerName: name}) }

func helloOf(config *tls.Config) [][]byte {
	var r recorded
	config.InsecureSkipVerify = true
	_ = tls.Client(&r, config).Handshake() // ends when no answer comes
	return [][]byte{r.sent.Bytes()}
}

// replaceName puts bytes into a hello that no client would: both are of one length.
func replaceName(name, other string) [][]byte {
	return [][]byte{bytes.Replace(clientHello(name)[0], []byte(name), []byte(other), 1)}
}

// inRecords divides the handshake message of a hello among records of n bytes.
func inRecords(hello []byte, n int) []byte {
	var out []byte
	for body := hello[5:]; len(body) > 0; {
		part := body[:min(n, len(body))]
		out = append(append(out, hello[0], hello[1], hello[2], 0, byte(len(part))), part...)
		body = body[len(part):]
	}
	return out
}

// twoNames has the extension with the server name twice.
func twoNames(first, second string) [][]byte {
	hello := clientHello(first)[0]
	extension := func(name string) []byte {
		n := len(name)
		head := []byte{0, 0, 0, byte(n + 5), 0, byte(n + 3), 0, 0, byte(n)}
		return append(head, name...)
	}
	at := bytes.Index(hello, extension(first))
	if at < 0 {
		return [][]byte{[]byte("no name found")}
	}
	added := extension(second)
	longer := bytes.Join([][]byte{hello[:at], extension(first), added, hello[at+len(extension(first)):]}, nil)
	// The lengths of the record, of the message and of the extensions.
	add := func(i int) {
		n := int(longer[i])<<8 | int(longer[i+1])
		n += len(added)
		longer[i], longer[i+1] = byte(n>>8), byte(n)
	}
	add(3)
	add(7)
	add(extensionsOf(hello))
	return [][]byte{longer}
}

// extensionsOf returns where in a hello the length of its extensions stands.
func extensionsOf(hello []byte) int {
	at := 5 + 4 + 2 + 32
	at += 1 + int(hello[at])                       // session
	at += 2 + int(hello[at])<<8 + int(hello[at+1]) // cipher suites
	return at + 1 + int(hello[at])                 // compression methods
}

// encryptedHello hides the name of the target: what is seen is another one.
func encryptedHello(in *intruder) string {
	public := "denied.test"
	key := bytes.Repeat([]byte{9}, 32)
	contents := bytes.Join([][]byte{
		{1, 0, 0x20, 0, 32}, key, // id, DHKEM(X25519), the key
		{0, 4, 0, 1, 0, 1, 0, byte(len(public))}, []byte(public), {0, 0},
	}, nil)
	config := append([]byte{0xfe, 0x0d, 0, byte(len(contents))}, contents...)
	list := append([]byte{0, byte(len(config))}, config...)
	hello := helloOf(&tls.Config{ServerName: in.open, EncryptedClientHelloConfigList: list, MinVersion: tls.VersionTLS13})
	if !bytes.Contains(hello[0], []byte(public)) {
		return fmt.Sprintf("no such hello: %q", hello[0])
	}
	return handshake(in.open, hello)
}

// handshake sends a hello in parts to a name, and says whether a server answered.
func handshake(name string, parts [][]byte) string {
	conn, err := dialName(name)
	if err != nil {
		return word(unwrap(err))
	}
	defer conn.Close()
	for _, part := range parts {
		if _, err := conn.Write(part); err != nil {
			return heard(0, unwrap(err))
		}
	}
	return answered(conn)
}

// cutShort ends the stream within the hello.
func cutShort(name string, hello []byte) string {
	conn, err := dialName(name)
	if err != nil {
		return word(unwrap(err))
	}
	defer conn.Close()
	if _, err := conn.Write(hello[:len(hello)/2]); err != nil {
		return heard(0, unwrap(err))
	}
	if err := conn.CloseWrite(); err != nil {
		return word(unwrap(err))
	}
	return answered(conn)
}

func dialName(name string) (*net.TCPConn, error) {
	addr, err := lookUp(name, "ip4")
	if err != nil {
		return nil, err
	}
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, portHTTPS)))
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(ioTimeout))
}

func answered(conn net.Conn) string {
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return silent
	case err != nil:
		return heard(0, unwrap(err))
	case n > 0 && buf[0] == 21: // the server's alert came through: it was reached
		return data
	}
	return heard(n, nil)
}

// rebinding are open names that lead to where nobody may go.
func rebinding() []struct{ name, addrs, reason string } {
	const unsafe, private = "unsafe_address", "private_address"
	return []struct{ name, addrs, reason string }{
		{"loopback", "127.0.0.1", unsafe},
		{"loopback_v6", "::1", unsafe},
		{"unspecified", "0.0.0.0", unsafe},
		{"unspecified_v6", "::", unsafe},
		{"metadata", "169.254.169.254", unsafe},
		{"metadata_v6", "fd00:ec2::254", unsafe},
		{"link_local", "fe80::1", unsafe},
		{"multicast", "224.0.0.1", unsafe},
		{"broadcast", "255.255.255.255", unsafe},
		{"reserved", "240.0.0.1", unsafe},
		{"nat64_metadata", "64:ff9b::a9fe:a9fe", unsafe},
		{"6to4_loopback", "2002:7f00:1::1", unsafe},
		{"compatible_loopback", "::7f00:1", unsafe},
		{"rfc1918", "10.20.0.5", private},
		{"cgnat", "100.64.0.1", private},
		{"benchmark", "198.18.5.5", private},
		{"ula", "fd12:3456::1", private},
		{"nat64_private", "64:ff9b::a14:5", private},
		{"mixed", openIPv4 + " 10.20.0.5", private},
		{"mixed_families", openIPv4 + " ::1", unsafe},
	}
}

func rebindingAttempts() []attempt {
	var all []attempt
	for _, r := range rebinding() {
		all = append(all, attempt{row: 19, name: r.name, want: reset, told: told{reason: r.reason, mode: "transparent", by: client},
			try: func(in *intruder) string { return connectName(in.open, portEcho) }})
	}
	return append(all,
		attempt{row: 20, name: "cname_to_private", want: reset, told: told{reason: "private_address", mode: "transparent", host: "alias.open.test"},
			try: func(*intruder) string { return connectName("alias.open.test", portEcho) }},
		attempt{row: 20, name: "redirected_to_another_name", want: "undeclared", told: told{reason: "undeclared_name", mode: "dns"},
			try: func(in *intruder) string {
				if _, err := lookUp(in.bad, "ip4"); err != nil {
					return "undeclared"
				}
				return ok
			}},
		attempt{row: 20, name: "redirected_to_another_port", want: reset, told: denied("wrong_port"),
			try: func(in *intruder) string { return connectName(in.open, 8443) }},
	)
}

// leadElsewhere has the resolver answer so, and listens where the agent's own
// loopback would be reached.
func leadElsewhere(s *stage) error {
	for _, a := range rebindingAttempts() {
		for _, r := range rebinding() {
			if a.row != 19 || a.name != r.name {
				continue
			}
			var addrs []netip.Addr
			for text := range strings.FieldsSeq(r.addrs) {
				addrs = append(addrs, netip.MustParseAddr(text))
			}
			s.env.Zone(a.label()+".open.test", addrs...)
		}
	}
	s.env.Zone("inner.open.test", netip.MustParseAddr("10.20.0.6"))
	if err := s.env.Record("alias.open.test. 60 IN CNAME inner.open.test."); err != nil {
		return err
	}
	var came atomic.Int32
	for _, addr := range []string{"127.0.0.1:7", "[::1]:7"} {
		var listener net.Listener
		err := s.env.Do(func() (err error) {
			listener, err = net.Listen("tcp", addr)
			return err
		})
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				came.Add(1)
				_ = conn.Close()
			}
		}()
		s.atEnd(listener.Close)
	}
	s.atEnd(func() error {
		if n := came.Load(); n > 0 {
			return fmt.Errorf("%d connections reached the agent's own loopback", n)
		}
		return nil
	})
	return nil
}
