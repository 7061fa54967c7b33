package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// settingsOf reads a configuration file after flags, and returns what is set then.
func settingsOf(t *testing.T, file string, flags ...string) (*serveOptions, *pflag.FlagSet, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	var o serveOptions
	set := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	o.addFlags(set)
	if err := set.Parse(append([]string{"--config", path}, flags...)); err != nil {
		t.Fatal(err)
	}
	return &o, set, o.readFile(set)
}

func TestSettings(t *testing.T) {
	const file = `# comment
policy: [base, /etc/ringfence/work.yaml]
resolver: 192.0.2.53
trusted-network: []
max-sandboxes: 12
ssh-idle-timeout: 90m
ssh-listen: "off"
log-level: debug
`
	o, _, err := settingsOf(t, file, "--log-level", "warn", "--resolver", "192.0.2.1", "--resolver", "192.0.2.2")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(o.policies.Specs, o.resolvers, o.trusted, o.maxSandboxes, o.sshIdle, o.sshListen, o.logLevel, o.stateDir)
	const want = "[base /etc/ringfence/work.yaml] [192.0.2.1 192.0.2.2] [] 12 1h30m0s off warn /var/lib/ringfence\n"
	if got != want {
		t.Errorf("set is\n%s, want\n%s", got, want)
	}
	// Without --config and without the file of the system there are the defaults.
	for _, empty := range []string{"", "# nothing\n", "{}\n"} {
		o, _, err := settingsOf(t, empty)
		if err != nil || o.logLevel != "info" {
			t.Errorf("%q: %v, log-level %q", empty, err, o.logLevel)
		}
	}
}

func TestSettingsErrors(t *testing.T) {
	tests := []struct{ name, file, want, hint string }{
		{"unknown key near to one", "log-level: info\nssh-listne: off\n", `agent.yaml:2: there is no setting "ssh-listne"`, "did you mean ssh-listen?"},
		{"unknown key", "colour: red\n", `agent.yaml:1: there is no setting "colour"`, "ringfence agent --help lists them"},
		{"what is no setting", "config: /etc/other.yaml\n", `there is no setting "config"`, "ringfence agent --help"},
		{"what is none either", "check: true\n", `there is no setting "check"`, "ringfence agent --help"},
		{"twice", "socket: /a\nlog-level: info\nsocket: /b\n", "agent.yaml:3: socket stands there twice", ""},
		{"two values for one", "socket: [/a, /b]\n", "agent.yaml:1: socket takes one value", "write socket: VALUE"},
		{"a mapping for a value", "\nsocket: {path: /a}\n", "agent.yaml:2: socket: a value, or a list of values, was expected", ""},
		{"a list of lists", "policy: [[a]]\n", "agent.yaml:1: policy: a value, or a list of values, was expected", ""},
		{"no number", "max-sandboxes: many\n", "agent.yaml:1: max-sandboxes: ", "ringfence agent --help says what it takes"},
		{"no duration", "ssh-idle-timeout: 90\n", "agent.yaml:1: ssh-idle-timeout: ", "ringfence agent --help says what it takes"},
		{"a list", "- socket: /a\n", "agent.yaml: is no mapping of settings", "write NAME: VALUE lines"},
		{"a word", "socket\n", "agent.yaml: is no mapping of settings", "write NAME: VALUE lines"},
		{"no YAML", "socket: [/a\n", "agent.yaml: line 1: did not find expected ',' or ']'", ""},
		{"an alias", "socket: &a /a\ninstance: *a\n", "agent.yaml:2: instance: a value, or a list of values, was expected", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := settingsOf(t, tt.file)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if tt.hint == "" {
				return
			}
			if hinted, ok := errors.AsType[*hintedError](err); !ok || !strings.Contains(hinted.hint, tt.hint) {
				t.Errorf("hint of %v, want %q", err, tt.hint)
			}
		})
	}
}

// A file that was named has to be there, and is not read without an end.
func TestSettingsFile(t *testing.T) {
	for path, want := range map[string]string{"/nonexistent/agent.yaml": "no such file", "/dev/zero": "zero", t.TempDir(): "directory"} {
		var o serveOptions
		set := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		o.addFlags(set)
		if err := set.Parse([]string{"--config", path}); err != nil {
			t.Fatal(err)
		}
		if err := o.readFile(set); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "read configuration: ") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// The example names each setting once, as a comment, with its default.
func TestExampleConfiguration(t *testing.T) {
	text, err := os.ReadFile("../../deploy/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, set, err := settingsOf(t, string(text)); err != nil || set.NFlag() != 1 {
		t.Errorf("as it is: %v, %d flags", err, set.NFlag())
	}
	setting := regexp.MustCompile(`(?m)^#([a-z][a-z-]*: .*)$`)
	_, set, err := settingsOf(t, setting.ReplaceAllString(string(text), "$1"))
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, m := range setting.FindAllStringSubmatch(string(text), -1) {
		name, _, _ := strings.Cut(m[1], ":")
		named = append(named, name)
	}
	slices.Sort(named)
	all := settingNames()
	slices.Sort(all)
	if diff := cmp.Diff(all, named); diff != "" {
		t.Errorf("settings (-there are +named)\n%s", diff)
	}
	set.VisitAll(func(f *pflag.Flag) {
		got, want := f.Value.String(), f.DefValue
		if f.Name == "policy" {
			want = "[default]"
		}
		if got != want && f.Name != "config" {
			t.Errorf("%s: %q, the default is %q", f.Name, got, want)
		}
	})
}

// docs/operations.md has a line for each setting, with its default, in this order.
func TestSettingsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n| setting | default | |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var got []string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || len(strings.Trim(cells[2], "| \n")) < 10 {
			t.Fatalf("line %q", line)
		}
		got = append(got, strings.TrimPrefix(cells[0], "| ")+" "+cells[1])
	}
	var want []string
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.SortFlags = false
	new(serveOptions).addSettings(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		value := f.DefValue
		switch {
		case f.Name == "policy":
			value = "default"
		case f.Name == "ssh-idle-timeout":
			value = "12h"
		case value == "" || value == "[]" || value == "0":
			want = append(want, "`"+f.Name+"` ")
			return
		}
		want = append(want, "`"+f.Name+"` `"+value+"`")
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-flags +docs)\n%s", diff)
	}
}
