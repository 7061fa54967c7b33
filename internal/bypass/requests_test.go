package bypass

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// connectVia asks the explicit proxy to connect, and returns the status.
func connectVia(target string) string {
	return proxySays("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n")
}

// proxySays sends bytes to the explicit proxy and returns the status of the answer,
// or what else came.
func proxySays(head string) string {
	conn, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), proxyPort).String())
	if err != nil {
		return word(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(ioTimeout)); err != nil {
		return word(err)
	}
	if _, err := conn.Write([]byte(head)); err != nil {
		return heard(0, unwrap(err))
	}
	buf := make([]byte, 1024)
	n, err := conn.Read(buf)
	if err != nil {
		return heard(0, unwrap(err))
	}
	fields := strings.Fields(string(buf[:n]))
	if len(fields) < 2 {
		return fmt.Sprintf("%q", buf[:n])
	}
	return fields[1]
}

// numberForms are ways to write an IPv4 address that some resolvers understand.
func numberForms(b [4]byte) []string {
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	return []string{
		fmt.Sprint(n), fmt.Sprintf("%#x", n), fmt.Sprintf("%#o", n),
		fmt.Sprintf("%#x.%#x.%#x.%#x", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("%#o.%#o.%#o.%#o", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("%d.%d.%d", b[0], b[1], n&0xffff),
		fmt.Sprintf("%d.%d", b[0], n&0xffffff),
		fmt.Sprintf("%03d.%03d.%03d.%03d", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("[::ffff:%d.%d.%d.%d]", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("[::ffff:%d.%d.%d.%d%%lo]", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("%d.%d.%d.%d.", b[0], b[1], b[2], b[3]),
	}
}

// requestsGroup: the head of a request to the explicit proxy (rows 16, 17, 30 and
// 37). What is inspected further comes with the inspection of requests.
func requestsGroup() group {
	return group{name: "requests", runner: client, attempts: func() []attempt {
		return append(targetAttempts(), smugglingAttempts()...)
	}}
}

func malformed() told { return told{reason: "malformed_request", host: "-"} }

// targetAttempts ask for a target in ways that have two readings, or none.
func targetAttempts() []attempt {
	asks := func(target func(in *intruder) string) func(*intruder) string {
		return func(in *intruder) string { return connectVia(target(in)) }
	}
	bad := func(name string, target func(in *intruder) string) attempt {
		return attempt{row: 16, name: name, want: "400", told: malformed(), try: asks(target)}
	}
	refused := func(name, reason, host string, target func(in *intruder) string) attempt {
		return attempt{row: 16, name: name, want: "403", told: told{reason: reason, mode: "connect", host: host}, try: asks(target)}
	}
	return []attempt{
		{row: 16, name: "open_name", want: "200", told: told{reason: "allowed", verdict: "allow", mode: "connect"},
			try: asks(func(in *intruder) string { return in.open + ":7" })},
		refused("address", "no_endpoint", "", func(in *intruder) string { return in.v4.String() + ":443" }),
		refused("address_v6", "no_endpoint", "", func(in *intruder) string { return "[" + in.v6.String() + "]:443" }),
		refused("address_mapped", "no_endpoint", "", func(in *intruder) string { return "[::ffff:" + in.v4.String() + "]:443" }),
		refused("metadata", "no_endpoint", "169.254.169.254", func(*intruder) string { return "169.254.169.254:80" }),
		refused("loopback", "no_endpoint", "127.0.0.1", func(*intruder) string { return "127.0.0.1:22" }),
		refused("localhost", "no_endpoint", "localhost", func(*intruder) string { return "localhost:22" }),
		refused("suffix", "no_endpoint", "", func(in *intruder) string { return in.bad + ":443" }),
		refused("two_labels", "no_endpoint", "a.b.open.test", func(*intruder) string { return "a.b.open.test:443" }),
		refused("other_port", "wrong_port", "", func(in *intruder) string { return in.open + ":22" }),
		bad("nul", func(in *intruder) string { return in.open + "\x00.denied.test:443" }),
		bad("control_byte", func(in *intruder) string { return in.open + "\x01:443" }),
		bad("escape", func(in *intruder) string { return "\x1b[31m" + in.open + ":443" }),
		bad("trailing_dot", func(in *intruder) string { return in.open + ".:443" }),
		bad("kelvin_sign", func(*intruder) string { return "\u212aelvin.open.test:443" }),
		bad("full_width", func(*intruder) string { return "\uff41.open.test:443" }),
		bad("percent", func(*intruder) string { return "a%2eopen%2etest:443" }),
		bad("userinfo", func(in *intruder) string { return in.open + "@" + in.bad + ":443" }),
		bad("brackets", func(in *intruder) string { return "[" + in.open + "]:443" }),
		bad("zone", func(*intruder) string { return "[fe80::1%25lo]:443" }),
		bad("wildcard", func(*intruder) string { return "*.open.test:443" }),
		bad("no_port", func(in *intruder) string { return in.open }),
		bad("port_0", func(in *intruder) string { return in.open + ":0" }),
		bad("port_wraps", func(in *intruder) string { return in.open + ":65979" }), // 443 in 16 bits
		bad("port_plus", func(in *intruder) string { return in.open + ":+443" }),
		bad("port_zeros", func(in *intruder) string { return in.open + ":0443" }),
		bad("port_hex", func(in *intruder) string { return in.open + ":0x1bb" }),
		bad("two_ports", func(in *intruder) string { return in.open + ":443:443" }),
		bad("path", func(in *intruder) string { return in.open + ":443/" }),
		bad("comma", func(in *intruder) string { return in.open + ":443," + in.bad + ":443" }),
		bad("backslash", func(in *intruder) string { return in.bad + `\@` + in.open + ":443" }),
	}
}

// smugglingAttempts send heads that two readers would understand in two ways.
func smugglingAttempts() []attempt {
	says := func(format string) func(*intruder) string {
		return func(in *intruder) string {
			return proxySays(strings.NewReplacer("OPEN", in.open+":7", "BAD", in.bad+":443").Replace(format))
		}
	}
	bad := func(name, format string) attempt {
		return attempt{row: 17, name: name, want: "400", told: malformed(), try: says(format)}
	}
	return []attempt{
		bad("length_and_chunks", "CONNECT OPEN HTTP/1.1\r\nHost: OPEN\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"),
		bad("two_lengths", "CONNECT OPEN HTTP/1.1\r\nHost: OPEN\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n"),
		bad("bare_lf", "CONNECT OPEN HTTP/1.1\nHost: OPEN\n\n"),
		bad("bare_cr", "CONNECT OPEN HTTP/1.1\r\nHost: OPEN\rX: y\r\n\r\n"),
		bad("folded", "CONNECT OPEN HTTP/1.1\r\nHost: OPEN\r\nX: a\r\n b\r\n\r\n"),
		bad("space_before_colon", "CONNECT OPEN HTTP/1.1\r\nHost : OPEN\r\n\r\n"),
		bad("two_hosts", "CONNECT OPEN HTTP/1.1\r\nHost: OPEN\r\nHost: BAD\r\n\r\n"),
		bad("other_host", "CONNECT OPEN HTTP/1.1\r\nHost: BAD\r\n\r\n"),
		bad("two_spaces", "CONNECT  OPEN HTTP/1.1\r\nHost: OPEN\r\n\r\n"),
		bad("no_version", "CONNECT OPEN\r\n\r\n"),
		bad("http2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		bad("small_method", "connect OPEN HTTP/1.1\r\nHost: OPEN\r\n\r\n"),
		bad("asterisk", "OPTIONS * HTTP/1.1\r\nHost: OPEN\r\n\r\n"),
		bad("origin_form", "GET / HTTP/1.1\r\nHost: OPEN\r\n\r\n"),
		{row: 17, name: "absolute_https", want: "400", try: says("GET https://OPEN/ HTTP/1.1\r\nHost: OPEN\r\n\r\n")},
		{row: 17, name: "h2c_upgrade", want: "501 400", try: says("GET http://OPEN/ HTTP/1.1\r\nHost: OPEN\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")},
		{row: 17, name: "pipelined_after_refusal", want: "once-403", try: pipelined},
		{row: 30, name: "huge_head", want: "400 431 reset", try: func(in *intruder) string {
			return proxySays("CONNECT " + in.open + ":7 HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n")
		}},
		{row: 30, name: "many_fields", want: "400 431 reset", try: func(in *intruder) string {
			return proxySays("CONNECT " + in.open + ":7 HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 1<<17) + "\r\n")
		}},
		{row: 37, name: "escapes_in_target", want: "400", told: malformed(), try: says("CONNECT \x1b]0;title\x07\u202e:443 HTTP/1.1\r\n\r\n")},
		{row: 37, name: "escapes_in_dns", want: "NXDOMAIN", told: told{reason: "undeclared_name", mode: "dns", host: "\x1b[2J\xff.denied.test"},
			try: func(*intruder) string { return askFor("udp", foreignServer, "\\027[2J\\255.denied.test", 1) }},
	}
}

// pipelined sends an allowed request behind one that is refused: only one answer
// comes, and nothing of the second is served.
func pipelined(in *intruder) string {
	conn, err := net.Dial("tcp", netip.AddrPortFrom(loopback(), proxyPort).String())
	if err != nil {
		return word(unwrap(err))
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(ioTimeout)); err != nil {
		return word(err)
	}
	head := func(target string) string { return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n" }
	if _, err := io.WriteString(conn, head(in.bad+":443")+head(in.open+":7")+payload); err != nil {
		return word(unwrap(err))
	}
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		return word(unwrap(err))
	}
	if n := strings.Count(string(answer), "HTTP/1.1 "); n != 1 || strings.Contains(string(answer), payload) {
		return fmt.Sprintf("%d answers: %q", n, answer)
	}
	return "once-" + strings.Fields(string(answer))[1]
}
