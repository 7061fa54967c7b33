package flow

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Target is what a policy judges: a host and a port.
type Target struct {
	// Host is a canonical name (see CanonicalHost), or the canonical text of Addr.
	Host string
	Port uint16
	// Addr is valid where the host is an IP literal, and only there.
	Addr netip.Addr
}

// Request is what a policy judges of one HTTP request. Its path is canonical, with
// a leading slash and without the query.
type Request struct {
	Method string
	Path   string
	Query  map[string][]string // decoded
}

// String returns host:port, with brackets around an IPv6 address.
func (t Target) String() string {
	if t.Addr.IsValid() {
		return netip.AddrPortFrom(t.Addr, t.Port).String()
	}
	return t.Host + ":" + strconv.Itoa(int(t.Port))
}

// AddrTarget returns the target of a literal address.
func AddrTarget(ap netip.AddrPort) Target {
	addr := ap.Addr().Unmap().WithZone("")
	return Target{Host: addr.String(), Port: ap.Port(), Addr: addr}
}

// Errors of ParseTarget and CanonicalHost, wrapped with the offending text.
var (
	ErrHost = errors.New("not a host name")
	ErrPort = errors.New("not a port (1-65535)")
)

// The longest name and label, in text form, that DNS can carry (RFC 1035).
const (
	maxHost  = 253
	maxLabel = 63
)

// ParseTarget reads "host:port" as a CONNECT request or a flag writes it. The
// port is required. A text with more than one reading is an error.
func ParseTarget(text string) (Target, error) {
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return Target{}, fmt.Errorf("%q has no port: %w", text, ErrPort)
	}
	port, err := ParsePort(text[colon+1:])
	if err != nil {
		return Target{}, err
	}
	host := text[:colon]
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		addr, err := netip.ParseAddr(host[1 : len(host)-1])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return Target{}, fmt.Errorf("%q: %w", host, ErrHost)
		}
		return AddrTarget(netip.AddrPortFrom(addr, port)), nil
	}
	return NewTarget(host, port)
}

// NewTarget returns the target of a host name or an unbracketed IPv4 literal.
func NewTarget(host string, port uint16) (Target, error) {
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() {
		return AddrTarget(netip.AddrPortFrom(addr, port)), nil
	}
	name, err := CanonicalHost(host)
	if err != nil {
		return Target{}, err
	}
	return Target{Host: name, Port: port}, nil
}

// ParsePort reads a decimal port: no sign, no leading zero, 1 to 65535.
func ParsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] < '1' || text[0] > '9' {
		return 0, fmt.Errorf("%q: %w", text, ErrPort)
	}
	return uint16(n), nil
}

// CanonicalHost returns the one form in which a name is matched and sent on:
// lower-case ASCII letters, digits, hyphens and underscores in labels of 1 to 63
// bytes, at most 253 in all, without a trailing dot. Names in other scripts must
// come as punycode. A name whose last label could be read as a number (so
// "127.1", "0x7f000001", "2130706433") is refused: resolvers read it as an address.
func CanonicalHost(text string) (string, error) {
	if len(text) > maxHost {
		return "", fmt.Errorf("%.64q…: more than %d bytes: %w", text, maxHost, ErrHost)
	}
	for label := range strings.SplitSeq(text, ".") {
		if !isLabel(label) {
			return "", fmt.Errorf("%q: a label is 1 to 63 of a-z, 0-9, '-' and '_', no hyphen at its ends: %w", text, ErrHost)
		}
	}
	// Only now that all is ASCII: ToLower folds other scripts into it (the
	// Kelvin sign into k), which would make two names one.
	name := strings.ToLower(text)
	if last := name[strings.LastIndexByte(name, '.')+1:]; looksNumeric(last) {
		return "", fmt.Errorf("%q: reads as a number, not as a name: %w", text, ErrHost)
	}
	return name, nil
}

// isLabel reports whether text can stand between two dots of a name.
func isLabel(text string) bool {
	if text == "" || len(text) > maxLabel || text[0] == '-' || text[len(text)-1] == '-' {
		return false
	}
	for i := range len(text) {
		c := text[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// looksNumeric follows the WHATWG rule for the last label of a host: all digits,
// or 0x and hexadecimal digits.
func looksNumeric(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}
