package event

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrEscape: the text was not made by Escape.
var ErrEscape = errors.New("invalid escape")

const hexDigits = "0123456789abcdef"

// Escape returns raw bytes as valid UTF-8 that has one reading: a backslash is
// doubled, and each byte that is no part of valid UTF-8 becomes \xNN. It is the
// form of every string in a JSON line, below JSON's own escapes; Unescape
// reverses it. Text without backslashes that is UTF-8 stays as it is.
func Escape(raw string) string {
	if utf8.ValidString(raw) && strings.IndexByte(raw, '\\') < 0 {
		return raw
	}
	var b strings.Builder
	for i := 0; i < len(raw); {
		r, size := utf8.DecodeRuneInString(raw[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x`)
			b.WriteByte(hexDigits[raw[i]>>4])
			b.WriteByte(hexDigits[raw[i]&15])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(raw[i : i+size])
		}
		i += size
	}
	return b.String()
}

// Unescape returns the raw bytes that Escape was given. A text that Escape does not
// make, such as \x41 for an A, is an error: no two texts stand for the same bytes.
func Unescape(text string) (string, error) {
	raw, err := unescape(text)
	if err == nil && Escape(raw) != text {
		err = fmt.Errorf("%w: %q", ErrEscape, text)
	}
	if err != nil {
		return "", err
	}
	return raw, nil
}

func unescape(text string) (string, error) {
	var b strings.Builder
	for {
		plain, rest, found := strings.Cut(text, `\`)
		b.WriteString(plain)
		if !found {
			return b.String(), nil
		}
		switch {
		case strings.HasPrefix(rest, `\`):
			b.WriteByte('\\')
			text = rest[1:]
		case len(rest) >= 3 && rest[0] == 'x':
			n, err := strconv.ParseUint(rest[1:3], 16, 8)
			if err != nil {
				return "", fmt.Errorf(`%w: \%s`, ErrEscape, rest[:3])
			}
			b.WriteByte(byte(n))
			text = rest[3:]
		default:
			return "", fmt.Errorf("%w: after %q", ErrEscape, plain)
		}
	}
}

// Quote makes any string safe to print on a terminal, on one line: what is not a
// printable character (control bytes and escape sequences, newlines, bidi and
// zero-width controls, bytes that are no UTF-8) becomes a Go escape. Within
// double quotes it is a Go string literal, and so has one reading.
func Quote(raw string) string {
	quoted := strconv.Quote(raw)
	return quoted[1 : len(quoted)-1]
}

// Prose makes a sentence of ours safe to print, on one line. Names that others chose
// are quoted in it already, as a rule: so only what does not print becomes a Go escape,
// and quotes and backslashes stay as they are.
func Prose(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(Quote(text[:1]))
		case strconv.IsPrint(r):
			b.WriteString(text[:size])
		default:
			b.WriteString(Quote(text[:size]))
		}
		text = text[size:]
	}
	return b.String()
}
