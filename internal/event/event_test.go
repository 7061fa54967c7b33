package event

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// nasty are strings that a sandbox may choose for a path or a host.
var nasty = []string{
	"", "/usr/bin/curl", `/tmp/a\b`, `/tmp/\x41`, "/tmp/\xff\xfe", "/tmp/\xc3", "caf\u00e9", "\ufffd", "a\x00b",
	"\x1b]0;owned\x07\x1b[2J", "line\nbreak\r", "\u009b31m", "\u202eevil", "a\u200bb\u2028c", "\U000e0041", `"quoted"`, "<&>", "\x7f",
}

func TestEscape(t *testing.T) {
	for raw, want := range map[string]string{
		"/usr/bin/curl": "/usr/bin/curl",
		"caf\u00e9":     "caf\u00e9",
		`a\b`:           `a\\b`,
		`\xff`:          `\\xff`,
		"\xff":          `\xff`,
		"\xe2\x80":      `\xe2\x80`,
		"\ufffd":        "\ufffd",
	} {
		if got := Escape(raw); got != want {
			t.Errorf("Escape(%q) = %q, want %q", raw, got, want)
		}
	}
	for _, bad := range []string{`\`, `a\`, `\x`, `\xf`, `\xzz`, `\n`, `\x+1`, `\x41`, `\xFF`, `\xc3\xa9`, "\xff"} {
		if got, err := Unescape(bad); err == nil {
			t.Errorf("Unescape(%q) = %q, want an error", bad, got)
		}
	}
}

func checkPrintable(t *testing.T, text string) {
	t.Helper()
	for _, r := range text {
		if !unicode.IsPrint(r) {
			t.Errorf("%q holds %U", text, r)
		}
	}
}

func TestQuote(t *testing.T) {
	for raw, want := range map[string]string{
		"/usr/bin/curl": "/usr/bin/curl",
		"caf\u00e9 x":   "caf\u00e9 x",
		"\x1b[31m":      `\x1b[31m`,
		"a\nb":          `a\nb`,
		"\u202e":        `\u202e`,
		"\x9b":          `\x9b`,
		"\u009b":        `\u009b`,
		`a\b`:           `a\\b`,
	} {
		if got := Quote(raw); got != want {
			t.Errorf("Quote(%q) = %s, want %s", raw, got, want)
		}
	}
}

// TestFields holds the line to the record: its fields, in its order, and
// duration_ms.
func TestFields(t *testing.T) {
	var want []string
	for f := range reflect.TypeFor[flow.Record]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
			want = append(want, name)
		}
	}
	want = append(want, "duration_ms")
	line, err := AppendJSON(nil, &flow.Record{Detail: "d", Hint: "h", Count: 1, SHA256: "ab", Preload: []string{"LD_PRELOAD"}, Script: "./x",
		User: "u", Source: "192.0.2.1:5", Key: "k", Command: "c", Object: "o"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	dec := json.NewDecoder(strings.NewReader(string(line)))
	for depth, key := 0, true; dec.More() || depth > 0; {
		token, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		switch delim, ok := token.(json.Delim); {
		case ok && (delim == '{' || delim == '['):
			depth++
		case ok:
			depth--
			key = true
		case depth == 1 && key:
			got = append(got, token.(string))
			key = false
		case depth == 1:
			key = true
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAppendJSON(t *testing.T) {
	r := &flow.Record{
		Time: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC), Sandbox: "s", Verdict: flow.Allow,
		Engine: flow.EngineOPA, Policy: "p", Reason: flow.ReasonAllowed, Generation: 3, Mode: flow.ModeConnect,
		Binary: "/tmp/\xff<\u202e", PID: 7, UID: 1000, Host: "example.com", Port: 443, Address: "192.0.2.1",
		Sent: 10, Received: 20, Duration: 1234567 * time.Nanosecond, ExecID: "7:1",
	}
	const want = `{"time":"2026-03-01T12:00:00.123457Z","sandbox":"s","verdict":"allow","engine":"opa","policy":"p",` +
		`"reason":"allowed","generation":3,"mode":"connect","binary":"/tmp/\\xff\u003c\u202e","pid":7,"uid":1000,"ancestors":[],` +
		`"host":"example.com","port":443,"address":"192.0.2.1","bytes_sent":10,"bytes_received":20,"exec_id":"7:1",` +
		`"taints":[],"duration_ms":1.234}` + "\n"
	got, err := AppendJSON(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if r.Binary != "/tmp/\xff<\u202e" || r.Ancestors != nil {
		t.Error("the record was changed")
	}
}

func TestSummary(t *testing.T) {
	var s Summary
	var b strings.Builder
	if err := s.Render(&b); err != nil || b.Len() != 0 {
		t.Errorf("empty summary: %q, %v", b.String(), err)
	}
	allow := &flow.Record{Verdict: flow.Allow, Reason: flow.ReasonAllowed, Binary: "/usr/bin/curl", Host: "example.com", Port: 443}
	deny := &flow.Record{Reason: flow.ReasonNoEndpoint, Binary: "/bin/\x1b[31msh", Host: "2001:db8::1", Port: 80, Hint: "add\nit", Ancestors: []string{"/bin/a\nb", "/bin/init"}}
	kernel := &flow.Record{Reason: flow.ReasonUDP, Count: 40}
	Tee{&s, &s}.Emit(allow)
	loaded := &flow.Record{Verdict: flow.Allow, Mode: flow.ModePolicy, Reason: flow.ReasonPolicyLoaded}
	refused := &flow.Record{Mode: flow.ModePolicy, Reason: flow.ReasonPolicyRefused}
	login := &flow.Record{Verdict: flow.Allow, Mode: flow.ModeSSH, Reason: flow.ReasonSSHLogin}
	created := &flow.Record{Verdict: flow.Allow, Mode: flow.ModeAPI, Reason: flow.ReasonSandboxCreated}
	for _, r := range []*flow.Record{allow, deny, kernel, loaded, refused, login, created} {
		s.Emit(r)
	}
	if err := s.Render(&b); err != nil {
		t.Fatal(err)
	}
	const want = `VERDICT  COUNT  PROGRAM          TARGET            REASON
deny        40  -                -                 udp
deny         1  -                -                 policy_refused
deny         1  /bin/\x1b[31msh  [2001:db8::1]:80  no_endpoint
  started by: /bin/init > /bin/a\nb
  hint: add\nit
allow        3  /usr/bin/curl    example.com:443   allowed
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestSummaryBounds(t *testing.T) {
	var s Summary
	for i := range maxGroups + 10 {
		s.Emit(&flow.Record{Binary: fmt.Sprintf("/%s%d", strings.Repeat("\u00e9", 3000), i)})
	}
	var b strings.Builder
	if err := s.Render(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != maxGroups+2 || !strings.HasPrefix(lines[len(lines)-1], "and 10 more") {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	if n := utf8.RuneCountInString(lines[1]); n > 120 {
		t.Errorf("a line of %d characters", n)
	}
}
