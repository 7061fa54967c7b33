package sniff

// Extensions that are read; all others are stepped over.
const (
	extServerName           = 0
	extEncryptedClientHello = 0xfe0d

	nameTypeHost = 0
)

// parseHello reads the body of a ClientHello message (RFC 8446, 4.1.2).
func parseHello(body cursor) (Hello, error) {
	var hello Hello
	if _, ok := body.take(2 + 32); !ok { // legacy_version, random
		return hello, malformed("cut short")
	}
	if id, ok := body.vector(1); !ok || len(id) > 32 {
		return hello, malformed("session id")
	}
	if suites, ok := body.vector(2); !ok || len(suites) < 2 || len(suites)%2 != 0 {
		return hello, malformed("cipher suites")
	}
	if methods, ok := body.vector(1); !ok || len(methods) == 0 {
		return hello, malformed("compression methods")
	}
	if len(body) == 0 { // before TLS 1.3 a hello may end here
		return hello, nil
	}
	extensions, ok := body.vector(2)
	if !ok || len(body) != 0 {
		return hello, malformed("length of the extensions")
	}
	if err := hello.parseExtensions(extensions); err != nil {
		return Hello{}, err
	}
	return hello, nil
}

func (h *Hello) parseExtensions(rest cursor) error {
	for len(rest) > 0 {
		kind, okKind := rest.uint(2)
		data, okData := rest.vector(2)
		if !okKind || !okData {
			return malformed("extension")
		}
		switch kind {
		case extServerName:
			if h.HasSNI {
				return malformed("two server names")
			}
			name, ok := serverName(data)
			if !ok {
				return malformed("server name")
			}
			h.SNI, h.HasSNI = name, true
		case extEncryptedClientHello:
			if h.ECH {
				return malformed("two encrypted hellos")
			}
			h.ECH = true
		}
	}
	return nil
}

// serverName reads a ServerNameList. Only a list of exactly one host name has
// one reading: other name types were never defined, and servers step over them
// in different ways.
func serverName(data cursor) (string, bool) {
	list, ok := data.vector(2)
	if !ok || len(data) != 0 {
		return "", false
	}
	kind, okKind := list.uint(1)
	name, okName := list.vector(2)
	if !okKind || !okName || kind != nameTypeHost || len(name) == 0 || len(list) != 0 {
		return "", false
	}
	return string(name), true
}

// cursor is the rest of a message. A method that returns false has met its end.
type cursor []byte

func (c *cursor) take(n int) (cursor, bool) {
	if len(*c) < n {
		return nil, false
	}
	head := (*c)[:n]
	*c = (*c)[n:]
	return head, true
}

// uint reads a big-endian number of the given bytes.
func (c *cursor) uint(bytes int) (int, bool) {
	raw, ok := c.take(bytes)
	n := 0
	for _, b := range raw {
		n = n<<8 | int(b)
	}
	return n, ok
}

// vector reads a length of the given bytes and as much content.
func (c *cursor) vector(bytes int) (cursor, bool) {
	n, ok := c.uint(bytes)
	if !ok {
		return nil, false
	}
	return c.take(n)
}
