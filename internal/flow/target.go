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

// maxHost is the longest name in text form that DNS can carry (RFC 1035).
const maxHost = 253

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
	bad := func(why string) (string, error) { return "", fmt.Errorf("%q: %s: %w", text, why, ErrHost) }
	if text == "" || len(text) > maxHost {
		return bad("must have 1 to 253 bytes")
	}
	name := text
	if hasUpper(name) {
		name = strings.ToLower(name)
	}
	label := 0
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '.' {
			if i == label {
				return bad("empty label")
			}
			if name[i-1] == '-' || i-label > 63 {
				return bad("label too long or ending in a hyphen")
			}
			label = i + 1
			continue
		}
		if c == '-' && i == label {
			return bad("label starts with a hyphen")
		}
		if !isHostByte(c) {
			return bad("only a-z, 0-9, '-', '_' and '.' may stand in a name")
		}
	}
	last := name[label:]
	switch {
	case last == "":
		return bad("ends in a dot")
	case len(last) > 63 || last[len(last)-1] == '-':
		return bad("label too long or ending in a hyphen")
	case looksNumeric(last):
		return bad("reads as a number, not as a name")
	}
	return name, nil
}

func hasUpper(s string) bool {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return true
		}
	}
	return false
}

func isHostByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// looksNumeric follows the WHATWG rule for the last label of a host: all digits,
// or 0x and hexadecimal digits.
func looksNumeric(label string) bool {
	digits, set := label, "0123456789"
	if strings.HasPrefix(label, "0x") {
		digits, set = label[2:], "0123456789abcdef"
	}
	return strings.Trim(digits, set) == ""
}
