package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/testenv"
	"github.com/ringfence/ringfence/internal/tty"
)

// hostile are bytes that a terminal obeys, that end a line, that are no text, or that
// are another text than they look. Each can be the name of a file and a label of DNS.
// (What each command makes of such texts as arguments and files: internal/cli.)
func hostile() map[string]string {
	return map[string]string{
		"escapes":   "e\x1b[31m\x1b]0;o\a\x1b]8;;x\x1b\\\x1b]52;c;aGk=\a\x7f\b",
		"lines":     "l\nallow  9  -\r\n{\"verdict\":\"allow\"}\v\f\u2028\u0085",
		"bytes":     "b\xff\xc3\x9b31m\x90\xed\xa0\x80",
		"text":      "t\u202egnp\u2066\u200b\ufeff\U000e0041\u009b31m",
		"homograph": "\u0430llowed",
	}
}

// shellQuote makes any bytes but NUL one word of a shell.
func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// onTerminal makes the run's stderr a terminal, and returns what ends with all that it
// was sent.
func (r *running) onTerminal(t *testing.T) func() string {
	t.Helper()
	master, slave, err := tty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	r.cmd.Stderr = slave
	said := make(chan []byte)
	go func() {
		text, _ := io.ReadAll(master) // it ends with EIO
		said <- text
	}()
	return func() string {
		slave.Close()
		return string(<-said)
	}
}

// checkTerminal: a terminal was sent lines of printing characters and nothing else.
func checkTerminal(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !strconv.IsPrint(r) }) {
			t.Errorf("the terminal was sent %q", line)
		}
	}
}

// checkRecords: each line of the file is JSON that can be shown as it is, and each of
// its texts says bytes.
func checkRecords(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		checkTerminal(t, string(line))
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		for name, value := range fields {
			list, isList := value.([]any)
			if !isList {
				list = []any{value}
			}
			for _, v := range list {
				if text, ok := v.(string); ok {
					if _, err := event.Unescape(text); err != nil {
						t.Errorf("%s %q: %v", name, text, err)
					}
				}
			}
		}
	}
}

// sighting is where in the records a hostile text must be found, as raw bytes.
type sighting struct {
	text   string // its name
	field  func(record) string
	want   string
	reason string
}

// TestHostileBytes has programs of a sandbox say hostile bytes wherever a program can
// say any: by its own name, a script's, and what it asks for by DNS, TLS and the proxy.
// A policy and a module that go on with them are read meanwhile.
func TestHostileBytes(t *testing.T) {
	testenv.Require(t, "gcc", "bash")
	f := newFixture(t)
	client, python := f.tool(toolC), realPath(t, "/usr/bin/python3")
	ask := python + " " + f.copyOf("testdata/hostile.py", "hostile.py")
	binary := func(r record) string { return r.Binary }
	script := func(r record) string { return r.Script }
	host := func(r record) string { return r.Host }
	detail := func(r record) string { return r.Detail }

	var commands []string
	var wants []sighting
	for name, text := range hostile() {
		f.copyOf(client, text)
		f.file(text+".sh", "#!"+realPath(t, "bash")+"\n: <>/dev/tcp/"+allowedName+"/25\n", 0o755)
		digits := hex.EncodeToString([]byte(text))
		head := func(format string) string {
			return hex.EncodeToString(fmt.Appendf(nil, format, text))
		}
		commands = append(commands,
			"./"+shellQuote(text)+" "+allowedName+" 25",
			"./"+shellQuote(text+".sh"),
			ask+" dns 192.0.2.53 "+digits,
			ask+" sni "+allowedName+" 443 "+digits,
			ask+" head localhost 15128 "+head("CONNECT %s:443 HTTP/1.1\r\n\r\n"),
			ask+" head localhost 15128 "+head("CONNECT "+allowedName+":443 HTTP/1.1\r\nHost: %s\r\n\r\n"),
			ask+" head localhost 15128 "+head("GET http://%s/ HTTP/1.1\r\n\r\n"),
			ask+" head localhost 15128 "+head("%s"),
		)
		wants = append(wants,
			sighting{name, binary, filepath.Join(f.dir, text), "wrong_binary"},
			sighting{name, script, "./" + text + ".sh", "wrong_binary"},
			sighting{name, host, strings.ReplaceAll(text, `\`, `\\`) + ".test", "undeclared_name"},
			sighting{name, detail, "", "sni_mismatch"},
			sighting{name, detail, "", "malformed_request"},
		)
	}
	rules := filepath.Join(f.dir, "rules")
	if err := os.Mkdir(rules, 0o755); err != nil {
		t.Fatal(err)
	}
	const objection = "x\u202e\x1b[31m\nallow"
	f.file("rules/"+hostile()["lines"]+".rego", "package ringfence.custom\n\ndeny contains \"x\\u202e\\u001b[31m\\nallow\" if input.network.port == 81\n", 0o644)
	commands = append(commands, client+" "+allowedName+" 81")
	wants = append(wants, sighting{"objection", func(r record) string { return r.Hint }, "", "custom_rule"})

	policy := f.policy(allowBlock("allowed", allowedName, []int{443, 81}, python, client) + allowBlock("banner", allowedName, []int{25}, "/usr/bin/another"))
	done := filepath.Join(f.dir, "done")
	steps := f.file("steps.sh", "cd "+f.dir+"\n"+strings.Join(commands, "\n")+"\nwhile [ ! -e "+done+" ]; do sleep 0.05; done\n", 0o644)
	r := f.prepare("-v", "--rego", rules, "--policy", policy, "--", "/bin/bash", "-c", ". "+steps+" >/dev/null 2>&1")
	terminal := r.onTerminal(t)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "a record", func() bool { return len(readRecordsSoFar(t, r.recordsPath)) > 0 })
	f.rewrite(policy, "  \"k\\e[31m\\u202E\": {endpoints: [{host: \"h\\a\\x9B\", port: 1}], binaries: []}\n  \"n\\nallow\": 1\n")
	await(t, "the reload", func() bool { return len(r.reloads()) > 0 })
	f.file("done", "", 0o644)
	got := r.wait()
	shown := terminal()

	checkTerminal(t, shown)
	checkRecords(t, r.recordsPath)
	wants = append(wants, sighting{"policy", detail, "", "policy_refused"})
	for _, want := range wants {
		if !slices.ContainsFunc(got.records, func(r record) bool {
			raw, err := event.Unescape(want.field(r))
			return err == nil && r.Reason == want.reason && (raw == want.want || want.want == "" && raw != "")
		}) {
			t.Errorf("%s: no record with the reason %s has %q", want.text, want.reason, want.want)
		}
	}
	for _, part := range []string{"VERDICT", "custom_rule", "policy_refused", `\x1b[31m`, `\u202e`, `\xff`, "the policy that was read is refused"} {
		if !strings.Contains(shown, part) {
			t.Errorf("the terminal does not show %q:\n%s", part, shown)
		}
	}
	if strings.Contains(shown, objection) {
		t.Errorf("the objection is shown as it is: %q", shown)
	}
	// What would forge a row of the summary stands in no line's beginning.
	for line := range strings.Lines(shown) {
		if strings.HasPrefix(line, "allow  9") {
			t.Errorf("a forged row: %q", line)
		}
	}
}

// TestHostileArguments runs commands that are named by hostile bytes, in directories
// and with variables of them: what runs gets them as they are, and what does not run is
// told so in lines that print.
func TestHostileArguments(t *testing.T) {
	f := newFixture(t)
	policy := f.allow([]int{25}, "/bin/none")
	for name, text := range hostile() {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(f.dir, "d"+text)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, tt := range []struct {
				args   []string
				status int
				stdout string
			}{
				{[]string{"--workdir", dir, "--env", "A=" + text, "--", "/bin/sh", "-c", `pwd -P; printf %s "$A$1"`, "sh", text}, 0, dir + "\n" + text + text},
				{[]string{"--", "./" + text}, 127, ""},
				{[]string{"--", text}, 127, ""},
				{[]string{"--", dir}, 126, ""},
				{[]string{"--workdir", dir + "/none", "--", "true"}, 125, ""},
				{[]string{"--user", text, "--", "true"}, 125, ""},
			} {
				r := f.prepare(append([]string{"--policy", policy}, tt.args...)...)
				terminal := r.onTerminal(t)
				if err := r.cmd.Start(); err != nil {
					t.Fatal(err)
				}
				got := r.wait()
				shown := terminal()
				checkTerminal(t, shown)
				if got.status != tt.status || got.stdout != tt.stdout || (shown == "") != (tt.status == 0) {
					t.Errorf("%q: status %d, stdout %q, terminal %q", tt.args, got.status, got.stdout, shown)
				}
				if tt.status == 127 && !strings.Contains(shown, event.Prose(text)) {
					t.Errorf("%q: %q does not say what was not found", tt.args, shown)
				}
			}
		})
	}
}
