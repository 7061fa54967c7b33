package sniff

import (
	"fmt"
	"strings"
)

// MaxHead is the longest request head that the explicit proxy reads.
const MaxHead = 8 << 10

// Head is the head of one request to the explicit proxy.
type Head struct {
	Method string
	Target string // the request target as it was sent: visible ASCII only
	Minor  int    // HTTP/1.Minor
	// Host is the value of the one Host field, raw; empty where HasHost is false.
	Host    string
	HasHost bool
	// Size is the length of the head with the empty line that ends it: what
	// follows belongs to the tunnel, or to the body.
	Size int
}

// HeadScanner finds the head of an HTTP/1 request at the start of a stream. The
// zero value is ready; it serves one stream.
//
// It holds to what net/http does not: lines end in CRLF and in nothing else, no
// line is folded, no control byte stands anywhere, nothing that frames a
// message is said twice.
type HeadScanner struct {
	seen int  // bytes that were looked at
	line int  // where the line in progress starts
	cr   bool // the last byte seen was a CR
}

// Scan reads data, which is all that has arrived: what the last call saw and
// more. The error is ErrMore or wraps ErrHead. A stream that begins with
// another protocol (TLS, SOCKS) is refused at its first odd byte.
func (s *HeadScanner) Scan(data []byte) (Head, error) {
	for ; s.seen < len(data); s.seen++ {
		c := data[s.seen]
		switch {
		case s.seen == MaxHead:
			return Head{}, badHead("longer than 8 KiB")
		case s.cr != (c == '\n'):
			return Head{}, badHead("line end that is not CRLF")
		case c == '\n' && s.seen == s.line+1:
			if s.line == 0 {
				return Head{}, badHead("no request line")
			}
			return parseHead(string(data[:s.seen+1]))
		case c == '\n':
			s.line = s.seen + 1
		case c == '\r': // the next byte decides
		case c < ' ' && (c != '\t' || s.line == 0), c == 0x7f:
			return Head{}, badHead("control byte")
		case c >= 0x80 && s.line == 0:
			return Head{}, badHead("request line is not ASCII")
		}
		s.cr = c == '\r'
	}
	return Head{}, ErrMore
}

// parseHead reads a complete head in which every line ends in CRLF.
func parseHead(text string) (Head, error) {
	head := Head{Size: len(text)}
	request, fields, _ := strings.Cut(strings.TrimSuffix(text, "\r\n"), "\r\n")
	if err := head.parseRequestLine(request); err != nil {
		return Head{}, err
	}
	var framing framing
	for field := range strings.SplitSeq(fields, "\r\n") {
		if field == "" { // behind the last CRLF
			continue
		}
		name, value, ok := strings.Cut(field, ":")
		if !ok || !isToken(name) { // also a folded line, and a blank before the colon
			return Head{}, badHead("header field")
		}
		value = strings.Trim(value, " \t")
		if err := head.parseField(name, value, &framing); err != nil {
			return Head{}, err
		}
	}
	if err := framing.check(head.Method); err != nil {
		return Head{}, err
	}
	return head, nil
}

func (h *Head) parseRequestLine(line string) error {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !isToken(parts[0]) || parts[1] == "" {
		return badHead("request line")
	}
	h.Method, h.Target = parts[0], parts[1]
	switch parts[2] {
	case "HTTP/1.0":
	case "HTTP/1.1":
		h.Minor = 1
	default:
		return badHead("only HTTP/1.0 and HTTP/1.1 are spoken here")
	}
	return nil
}

func (h *Head) parseField(name, value string, f *framing) error {
	switch strings.ToLower(name) {
	case "host":
		if h.HasHost {
			return badHead("two Host fields")
		}
		h.Host, h.HasHost = value, true
	case "content-length":
		if f.length != "" || value == "" || strings.Trim(value, "0123456789") != "" {
			return badHead("Content-Length")
		}
		f.length = value
	case "transfer-encoding":
		f.encoded = true
	}
	return nil
}

// framing is what a head says about where the message ends.
type framing struct {
	length  string
	encoded bool
}

func (f framing) check(method string) error {
	switch {
	case f.encoded && f.length != "":
		return badHead("Content-Length and Transfer-Encoding")
	case method == "CONNECT" && (f.encoded || strings.Trim(f.length, "0") != ""):
		// Body or tunnel: two readings of the bytes that follow.
		return badHead("CONNECT with a body")
	}
	return nil
}

// isToken follows RFC 9110, 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

func badHead(what string) error { return fmt.Errorf("%w: %s", ErrHead, what) }
