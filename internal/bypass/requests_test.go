package bypass

import (
	"fmt"
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
