package event

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ringfence/ringfence/internal/flow"
)

// FuzzEscape: any bytes come back from every string of a line, and no byte of a line
// is one that a terminal obeys.
func FuzzEscape(f *testing.F) {
	for _, s := range nasty {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		text := Escape(raw)
		if !utf8.ValidString(text) {
			t.Errorf("Escape(%q) is no UTF-8", raw)
		}
		if got, err := Unescape(text); err != nil || got != raw {
			t.Errorf("Unescape(Escape(%q)) = %q, %v", raw, got, err)
		}
		checkPrintable(t, Quote(raw))
		checkPrintable(t, Prose(raw))
		var r flow.Record
		texts := fill(reflect.ValueOf(&r).Elem(), raw)
		line, err := AppendJSON(nil, &r)
		if err != nil {
			t.Fatal(err)
		}
		body, ended := strings.CutSuffix(string(line), "\n")
		if !ended {
			t.Errorf("%q is no whole line", line)
		}
		checkPrintable(t, body)
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		for _, name := range texts {
			value := fields[name]
			if list, ok := value.([]any); ok && len(list) == 1 {
				value = list[0]
			}
			if value == nil && raw == "" {
				continue // left out
			}
			text, _ := value.(string)
			if got, err := Unescape(text); err != nil || got != raw {
				t.Errorf("%s: %q came back as %q, %v", name, raw, got, err)
			}
		}
	})
}

// fill sets every text of a record, and returns their names in a line. A field that is
// added to the record is so tried too.
func fill(record reflect.Value, raw string) (names []string) {
	for field, value := range record.Fields() {
		// What has a text of its own is no text of a sandbox.
		_, own := value.Interface().(json.Marshaler)
		_, named := value.Interface().(interface{ MarshalText() ([]byte, error) })
		switch {
		case own || named:
			continue
		case value.Kind() == reflect.String:
			value.SetString(raw)
		case value.Type() == reflect.TypeFor[[]string]():
			value.Set(reflect.ValueOf([]string{raw}))
		default:
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// FuzzUnescape: a text has one reading or none, and no other text has the same one.
func FuzzUnescape(f *testing.F) {
	for _, s := range append([]string{`\x41`, `\xFF`, `\xff`, `\xc3\xa9`, `\\x41`, `\`, `\x+1`}, nasty...) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		raw, err := Unescape(text)
		if err != nil && raw != "" {
			t.Errorf("%q is %q and %v", text, raw, err)
		}
		if err == nil && Escape(raw) != text {
			t.Errorf("%q reads as %q, whose text is %q", text, raw, Escape(raw))
		}
	})
}

// FuzzSummary: whatever a sandbox chose, a person sees one line for each kind of
// record, of bounded length, and a terminal sees no control bytes.
func FuzzSummary(f *testing.F) {
	f.Add("/bin/sh", "example.com", "/usr/bin/claude", "add it", uint16(443))
	f.Add("\x1b]0;x\a", "a\nallow  1  -", "\u202e\xff", "hint\u2028two\r\n\x9b31m", uint16(0))
	f.Add(strings.Repeat("\u00e9", 100), strings.Repeat("\xff", 100), strings.Repeat("/a", 2000), "", uint16(1))
	f.Add("/bin/sh  good.example:443  allowed", "a b", "/x y", "h", uint16(1))
	f.Add(" ", " ", " ", "", uint16(0))
	quoted := regexp.MustCompile(`(^|[ …])"(\\.|[^"\\])*"`)
	f.Fuzz(func(t *testing.T, binary, host, ancestor, hint string, port uint16) {
		var s Summary
		r := &flow.Record{Binary: binary, Host: host, Port: port, Ancestors: []string{ancestor, ancestor}, Hint: hint, Reason: flow.ReasonUDP}
		s.Emit(r)
		s.Emit(r)
		var out strings.Builder
		if err := s.Render(&out); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		want := 3 // head, row, what started it
		if hint != "" {
			want++
		}
		if len(lines) != want {
			t.Errorf("%d lines, want %d:\n%s", len(lines), want, out.String())
		}
		for _, line := range lines {
			checkPrintable(t, line)
		}
		// Blanks stand between columns, or within quotes.
		row := quoted.ReplaceAllString(lines[1], " q")
		if fields := strings.Fields(row); fields[0] != "deny" || fields[1] != "2" || len(fields) != 5 {
			t.Errorf("row %q", lines[1])
		}
	})
}

// FuzzParseCursor: a token has one reading, and no other text is one.
func FuzzParseCursor(f *testing.F) {
	for _, text := range []string{"", "-", "0000000000000001-2", "1-2", "000000000000000g-1", "ffffffffffffffff-18446744073709551615", "0000000000000001-+2", "0000000000000001-02"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCursor(text)
		if err == nil && c.String() != text {
			t.Errorf("%q is read as %v", text, c)
		}
		if again, err := ParseCursor(c.String()); err != nil || again != c {
			t.Errorf("%v comes back as %v, %v", c, again, err)
		}
	})
}
