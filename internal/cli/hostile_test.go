package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ringfence/ringfence/internal/source"
	"github.com/ringfence/ringfence/internal/tty"
)

// hostileTexts are what names, hosts, paths and files may hold that a terminal obeys,
// that forges a line, or that reads as something else. None has a slash or a zero
// byte, so each can be the name of a file.
var hostileTexts = map[string]string{
	"escape sequences": "a\x1b[31m\x1b[2J\x1b]0;owned\a\x1b]8;;https:x\x1b\\\x1b]52;c;aGk=\a\x7f\bb",
	"C1 as UTF-8":      "a\u009b31mb\u0085c\u0090d",
	"C1 as bytes":      "a\x9b31m\x85\x90b",
	"newline":          "a\nall is well\nhint: b",
	"other breaks":     "a\rall is well\v\f\x1c\x1d\x1e\u2028b\u2029c",
	"no UTF-8":         "a\xff\xc3\xe2\x80\xed\xa0\x80b",
	"bidi, invisible":  "a\u202egnp.\u2066b\u2069\u200f\u200b\u200d\ufeffb\u00ad\U000e0041",
	"homograph":        "\u0430pple.com", // prints, and is no other name
	"quotes":           `a"b'c$(d)` + "`e`",
	"very long":        strings.Repeat("\u202ex", 50),
}

// checkShown fails for output that is not whole lines of printing characters.
func checkShown(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line, ended := strings.CutSuffix(line, "\n")
		if !ended || strings.ContainsFunc(line, func(r rune) bool { return !strconv.IsPrint(r) }) || !utf8.ValidString(line) {
			t.Errorf("%s shows %q", what, line)
		}
		// Each text with a newline goes on with what would be believed.
		if line = strings.TrimPrefix(line, "ringfence: "); strings.HasPrefix(line, "all is well") || strings.HasPrefix(line, "hint: b") {
			t.Errorf("%s shows a forged line: %q\nin %q", what, line, text)
		}
	}
}

// runShown runs a command of the program with files for its streams.
func runShown(t *testing.T, dir string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	env := Env{Dir: dir, Environ: []string{"PATH=/usr/bin:/bin"}, UID: os.Geteuid()}
	var err error
	if env.Stdin, err = os.Open(os.DevNull); err != nil {
		t.Fatal(err)
	}
	defer env.Stdin.Close()
	files := [2]*os.File{}
	for i := range files {
		if files[i], err = os.CreateTemp(t.TempDir(), "out"); err != nil {
			t.Fatal(err)
		}
		defer files[i].Close()
	}
	env.Stdout, env.Stderr = files[0], files[1]
	status = Main(env, args)
	var said [2][]byte
	for i, file := range files {
		if said[i], err = os.ReadFile(file.Name()); err != nil {
			t.Fatal(err)
		}
	}
	return string(said[0]), string(said[1]), status
}

// hostileFiles makes files that are named by a text, and ones that hold it.
func hostileFiles(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules")
	yamlText := strconv.QuoteToASCII(strings.ToValidUTF8(text, "?"))
	yamlText = strings.NewReplacer(`\a`, `\x07`, `\v`, `\x0b`, `\f`, `\x0c`, `\b`, `\x08`).Replace(yamlText)
	good := "version: 1\nnetwork_policies: {p: {name: %s, endpoints: [{host: a.test, port: 1}], binaries: [{path: /link}]}}\n"
	for name, content := range map[string]string{
		"good-" + text + ".yaml":  fmt.Sprintf(good, "p"),
		"bad-" + text + ".yaml":   "version: 2\nnonsense: 1\n",
		"raw.yaml":                "version: 1\n" + text + ": " + text + "\n",
		"raw-quoted.yaml":         "version: 1\nnetwork_policies:\n  \"" + text + "\": {endpoints: [{host: '" + text + "', port: 1}]}\n",
		"name.yaml":               fmt.Sprintf(good, yamlText),
		"key.yaml":                "version: 1\n" + yamlText + ": 1\nnetwork_policies: {" + yamlText + ": {" + yamlText + ": 1, endpoints: [{host: a.test, port: 1}], binaries: [{path: /x}]}}\n",
		"value.yaml":              "version: " + yamlText + "\nnetwork_policies: {p: {endpoints: [{host: " + yamlText + ", port: " + yamlText + ", protocol: " + yamlText + ", allowed_ips: [" + yamlText + "], path: " + yamlText + "}], binaries: [{path: " + yamlText + "}, {path: /" + yamlText[1:] + "]}}\n",
		"path.yaml":               "version: 1\nnetwork_policies: {p: {endpoints: [{host: a.test, port: 1}], binaries: [{path: \"/opt/" + yamlText[1:] + "}]}}\n",
		"paths.yaml":              "version: 1\nfilesystem_policy: {read_only: [" + yamlText + ", \"/" + yamlText[1:] + "]}\nprocess: {run_as_user: " + yamlText + ", run_as_group: " + yamlText + "}\n",
		"tag.yaml":                "version: !<" + strings.Map(func(r rune) rune { return max(r, '!') }, text) + "> 1\n",
		"anchor.yaml":             "version: *" + text + "\n",
		"rules/" + text + ".rego": "package ringfence.custom\ndeny contains x[" + yamlText + "]\n",
	} {
		if err := os.MkdirAll(rules, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestHostileTexts puts each text wherever a command takes one, and into what its
// files hold and are called. What is shown is lines that print, and JSON.
func TestHostileTexts(t *testing.T) {
	for name, text := range hostileTexts {
		t.Run(name, func(t *testing.T) {
			dir := hostileFiles(t, text)
			t.Chdir(dir)
			good := "good-" + text + ".yaml"
			explain := []string{"policy", "explain", "--policy", "./" + good}
			commands := [][]string{
				{text}, {"--" + text}, {"policy", text}, {"policy", "--" + text}, {"policy", "list", text}, {"policy", "list", "-o", text},
				{"policy", "check", text}, {"policy", "check", "./" + text}, {"policy", "check", good, text + "/x"},
				{"policy", "check", good, "--rego", "rules"}, {"policy", "check", good, "--rego", text}, {"policy", "show", text},
				{"policy", "show", "--root", text}, {"policy", "show", "--user", text},
				append(explain, "--binary", "/"+text, "--host", "a.test", "--port", "1"),
				append(explain, "--binary", text, "--host", "a.test", "--port", "1"),
				append(explain, "--binary", "/link", "--host", text), append(explain, "--binary", "/link", "--host", "a.test", "--port", text),
				append(explain, "--binary", "/link", "--host", "a.test", "--ancestor", "/"+text), append(explain, "--binary", "/link", "--host", "a.test", "--taint", text),
				append(explain, "--binary", "/link", "--host", "a.test", "--sha256", text), append(explain, "--binary", "/link", "--host", "a.test", "--user", text),
				append(explain, "--binary", "/link", "--host", "a.test", "--method", text), append(explain, "--binary", "/link", "--host", "a.test", "--path", "/"+text+"?"+text+"=%"+text),
				append(explain, "--binary", "/link", "--host", "a.test", "--root", text),
				{"run", "--" + text}, {"run", "--policy", text}, {"run", "--policy", "./" + text}, {"run", "--rego", text}, {"run", "--resolver", text},
				{"run", "--upstream-ca", text}, {"run", "--upstream-ca", good}, {"run", "--trusted-network", text}, {"run", "--control-plane", text}, {"run", "--control-plane", "https://" + text},
				{"run", "--user", text}, {"run", "--workdir", text}, {"run", "--workdir", good}, {"run", "--env", text}, {"run", "--records", text + "/x"},
			}
			for _, file := range []string{"bad-" + text + ".yaml", "raw.yaml", "raw-quoted.yaml", "name.yaml", "key.yaml", "value.yaml", "path.yaml", "paths.yaml", "tag.yaml", "anchor.yaml", good} {
				commands = append(commands, []string{"policy", "check", "./" + file}, []string{"policy", "show", "./" + file}, []string{"policy", "show", "-o", "json", "./" + file})
				if strings.HasPrefix(file, "path") {
					commands = append(commands, []string{"policy", "explain", "--policy", "./" + file, "--binary", "/opt/" + text, "--host", "a.test", "--port", "1"})
				}
				if file != good && file != "name.yaml" && file != "path.yaml" && file != "paths.yaml" {
					commands = append(commands, []string{"run", "--policy", "./" + file})
				}
			}
			for _, command := range commands {
				for _, asJSON := range []bool{false, true} {
					if asJSON {
						if command[0] != "policy" || len(command) < 2 || command[1] != "check" && command[1] != "explain" {
							continue
						}
						command = append(command, "-o", "json")
					}
					what := fmt.Sprintf("%q", command)
					stdout, stderr, _ := runShown(t, dir, command...)
					checkShown(t, what, stdout)
					checkShown(t, what, stderr)
					if stdout == "" && stderr == "" {
						t.Errorf("%s says nothing", what)
					}
					if asJSON && stdout != "" && !json.Valid([]byte(stdout)) {
						t.Errorf("%s: no JSON: %s", what, stdout)
					}
				}
			}
		})
	}
}

// What the environment says is told as well, and so is what a log line has.
func TestHostileEnvironmentAndLog(t *testing.T) {
	for name, text := range hostileTexts {
		for _, variable := range []string{"RINGFENCE_ENDPOINT", "NAVIGATOR_ENDPOINT"} {
			var out strings.Builder
			_, err := controlPlane("", Env{Environ: []string{variable + "=" + text}})
			if err == nil && name != "homograph" {
				t.Errorf("%s: %s is taken", name, variable)
			}
			if err != nil {
				report(&out, err)
			}
			checkShown(t, name, out.String())
		}
		var out strings.Builder
		log := newLog(&out, true)
		log.With("with "+name, text).Warn(text, "text", text, "error", errors.New(text))
		checkShown(t, name, out.String())
		if lines := strings.Count(out.String(), "\n"); lines != 1 {
			t.Errorf("%s: %d lines are logged: %q", name, lines, out.String())
		}
	}
}

// On a terminal, the text of a policy is printed and not obeyed; else it is as it is.
func TestRawPolicyOnATerminal(t *testing.T) {
	text := "version: 1 # \x1b[31m\u202e\x9b\n# second\n"
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if stdout, _, _ := runShown(t, t.TempDir(), "policy", "show", "--raw", path); stdout != text {
		t.Errorf("a file gets %q", stdout)
	}
	master, slave, err := tty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if err := showRaw(Env{Stdout: slave}, source.Set{Specs: []string{path}}); err != nil {
		t.Fatal(err)
	}
	const want = `version: 1 # \x1b[31m\u202e\x9b` + "\r\n# second\r\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(master, got); err != nil || string(got) != want {
		t.Errorf("a terminal gets %q, %v; want %q", got, err, want)
	}
}

// The JSON of a check says the name of a file reversibly.
func TestCheckSaysNamesInJSON(t *testing.T) {
	var out bytes.Buffer
	if err := writeJSON(&out, finding{File: "a\\b\xff\u009b", Message: "\u202e"}); err != nil {
		t.Fatal(err)
	}
	const want = "{\n  \"file\": \"a\\\\\\\\b\\\\xff\\u009b\",\n  \"line\": 0,\n  \"column\": 0,\n  \"message\": \"\\u202e\"\n}\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
