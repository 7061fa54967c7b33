package event

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/ringfence/ringfence/internal/flow"
)

// line is one JSON line: the fields of a record in their order, and how long it
// took.
type line struct {
	flow.Record
	DurationMS float64 `json:"duration_ms"` // milliseconds, to the microsecond
}

// AppendJSON appends the record as one line of JSON with a newline. All its
// strings went through Escape, and what does not print is a \u escape, so that
// the line is safe to show as it is.
func AppendJSON(dst []byte, r *flow.Record) ([]byte, error) {
	l := line{Record: *r, DurationMS: float64(r.Duration.Microseconds()) / 1000}
	l.Time = r.Time.UTC().Round(time.Microsecond)
	for _, s := range []*string{
		&l.Sandbox, (*string)(&l.Engine), &l.Policy, (*string)(&l.Reason), &l.Detail, &l.Hint,
		&l.Binary, &l.Host, &l.Address, &l.ExecID, &l.SHA256, &l.Script,
		&l.User, &l.Source, &l.Key, &l.Command, &l.Object,
	} {
		*s = Escape(*s)
	}
	l.Ancestors = escapeAll(r.Ancestors)
	l.Taints = escapeAll(r.Taints)
	l.Preload = escapeAll(r.Preload)
	text, err := json.Marshal(&l)
	if err != nil {
		return dst, fmt.Errorf("encode record: %w", err)
	}
	return append(AppendPrintable(dst, text), '\n'), nil
}

// escapeAll returns an empty list for nil: a reader finds [] and not null.
func escapeAll(raw []string) []string {
	escaped := make([]string, len(raw))
	for i, s := range raw {
		escaped[i] = Escape(s)
	}
	return escaped
}

// AppendPrintable appends JSON text, which is valid UTF-8, and escapes what does not
// print: encoding/json leaves DEL, C1 and bidi controls as they are. Such a character
// can only stand within a string, and a newline only outside of one.
func AppendPrintable(dst, text []byte) []byte {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case strconv.IsPrint(r), r == '\n':
			dst = append(dst, text[:size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			dst = fmt.Appendf(dst, `\u%04x\u%04x`, high, low)
		default:
			dst = fmt.Appendf(dst, `\u%04x`, r)
		}
		text = text[size:]
	}
	return dst
}
