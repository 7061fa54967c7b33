package sniff

import (
	"encoding/binary"
	"fmt"
)

// Bounds of a ClientHello. The largest seen in the field, with several
// post-quantum key shares, is under 4 KiB in one record.
const (
	maxMessage  = 16 << 10 // the handshake message with its header
	maxRecords  = 64       // records over which it may be spread
	maxFragment = 1 << 14  // plaintext of one record (RFC 8446, 5.1)

	recordHeader  = 5
	messageHeader = 4

	// MaxHello is how many bytes a scan may ask for at most.
	MaxHello = maxMessage + maxRecords*recordHeader
)

// TLS constants (RFC 8446, 5.1 and 4; RFC 6066, 3; RFC 9849).
const (
	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	messageClientHello     = 1
	majorVersion           = 3
)

// Hello is what a ClientHello shows in clear.
type Hello struct {
	// SNI holds the raw bytes of the server name: not validated, and empty
	// where HasSNI is false.
	SNI    string
	HasSNI bool
	// ECH is true where the hello carries an encrypted one, or GREASE that
	// looks the same. SNI is then the outer name.
	ECH bool
}

// HelloScanner finds the ClientHello at the start of a stream. The zero value
// is ready; it serves one stream.
type HelloScanner struct {
	next    int    // offset of the first record that is not yet complete
	records int    // complete records before it
	message []byte // their content; used only where one record was not enough
}

// Scan reads data, which is all that has arrived: what the last call saw and
// more. The error is ErrMore, ErrNotTLS or wraps ErrHello. Bytes after the
// hello's last record are not looked at.
func (s *HelloScanner) Scan(data []byte) (Hello, error) {
	if s.next == 0 {
		if err := classify(data); err != nil {
			return Hello{}, err
		}
	}
	for {
		fragment, err := s.fragment(data)
		if err != nil {
			return Hello{}, err
		}
		s.next += recordHeader + len(fragment)
		s.records++
		message := fragment
		if s.records > 1 {
			s.message = append(s.message, fragment...)
			message = s.message
		}
		whole, err := isWhole(message)
		switch {
		case err != nil:
			return Hello{}, err
		case whole:
			return parseHello(message[messageHeader:])
		case s.records == 1:
			s.message = append(s.message, fragment...)
		}
	}
}

// classify tells from the first six bytes whether a server could read a
// ClientHello. Servers differ in what they tolerate before and in one, and what
// any of them tolerates must not pass as "not TLS": Go reads records of every
// version below 0x1000, OpenSSL skips empty records, both skip warning alerts.
// Six bytes, not two, because 0x16 may also begin a length of another protocol.
func classify(data []byte) error {
	if len(data) == 0 {
		return ErrMore
	}
	kind := data[0]
	if kind < recordChangeCipherSpec || kind > recordHandshake || len(data) > 1 && data[1] >= 0x10 {
		return ErrNotTLS
	}
	if len(data) <= recordHeader {
		return ErrMore
	}
	major, length, first := data[1], binary.BigEndian.Uint16(data[3:]), data[recordHeader]
	switch {
	case kind == recordHandshake && length == 0 && major == majorVersion:
		return malformed("empty record")
	case kind == recordHandshake && first == messageClientHello && major == majorVersion:
		return nil
	case kind == recordHandshake && first == messageClientHello:
		return malformed("record version")
	case kind == recordAlert && length == 2 && (first == 1 || first == 2),
		kind == recordChangeCipherSpec && length == 1 && first == 1:
		return malformed("another record before it")
	}
	return ErrNotTLS
}

// fragment returns the content of the next record.
func (s *HelloScanner) fragment(data []byte) ([]byte, error) {
	if s.records == maxRecords {
		return nil, malformed("too many records")
	}
	rest := data[s.next:]
	if len(rest) < recordHeader {
		return nil, ErrMore
	}
	if rest[0] != recordHandshake || rest[1] != majorVersion {
		return nil, malformed("another record within it")
	}
	n := int(binary.BigEndian.Uint16(rest[3:]))
	switch {
	case n == 0:
		return nil, malformed("empty record")
	case n > maxFragment || s.next+recordHeader+n > MaxHello:
		return nil, malformed("too long")
	case len(rest) < recordHeader+n:
		return nil, ErrMore
	}
	return rest[recordHeader : recordHeader+n], nil
}

// isWhole reports whether message, the content of complete records, is all of
// the hello. A client can send no other message in the hello's last record.
func isWhole(message []byte) (bool, error) {
	if message[0] != messageClientHello {
		return false, malformed("another message")
	}
	if len(message) < messageHeader {
		return false, nil
	}
	want := messageHeader + int(message[1])<<16 + int(message[2])<<8 + int(message[3])
	switch {
	case want > maxMessage:
		return false, malformed("too long")
	case len(message) > want:
		return false, malformed("bytes after it in its record")
	}
	return len(message) == want, nil
}

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrHello, what) }
