package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/sshd"
)

// runIn runs a command of the program with files for its streams.
func runIn(t *testing.T, env Env, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var err error
	if env.Stdin == nil {
		if env.Stdin, err = os.Open(os.DevNull); err != nil {
			t.Fatal(err)
		}
		defer env.Stdin.Close()
	}
	for _, file := range []**os.File{&env.Stdout, &env.Stderr} {
		if *file, err = os.CreateTemp(t.TempDir(), "out"); err != nil {
			t.Fatal(err)
		}
		defer (*file).Close()
	}
	status = Main(env, args)
	var said [2][]byte
	for i, file := range []*os.File{env.Stdout, env.Stderr} {
		if said[i], err = os.ReadFile(file.Name()); err != nil {
			t.Fatal(err)
		}
	}
	return string(said[0]), string(said[1]), status
}

// An update is made anew on what another wrote in between, but not without an end.
func TestUpdateConflicts(t *testing.T) {
	d, env := newDouble(t)
	if _, stderr, status := runIn(t, env, "sandbox", "create", "web", "--label", "a=1"); status != 0 {
		t.Fatal(stderr)
	}
	d.conflicts = updateTries - 1
	if _, stderr, status := runIn(t, env, "sandbox", "update", "web", "--label", "b=2"); status != 0 {
		t.Errorf("after some conflicts: status %d, %s", status, stderr)
	}
	if got := keyValues(d.sandboxes["web"].GetSpec().GetLabels()); got != "a=1,b=2" {
		t.Errorf("labels %q", got)
	}
	d.conflicts = updateTries
	if _, stderr, status := runIn(t, env, "sandbox", "update", "web", "--label", "c=3"); status != serviceFailed {
		t.Errorf("with conflicts only: status %d, %s", status, stderr)
	}
}

// What the agent or a sandbox says is quoted, whatever it holds.
func TestHostileAnswers(t *testing.T) {
	for name, text := range hostileTexts {
		t.Run(name, func(t *testing.T) {
			d, env := newDouble(t)
			valid := strings.ToValidUTF8(text, "?") // protobuf's strings are UTF-8
			d.sandboxes["web"] = &ringfencev1.Sandbox{
				Name: "web", Id: valid,
				Spec: &ringfencev1.SandboxSpec{
					Labels: map[string]string{valid: valid}, Environment: map[string]string{"A": valid}, Workdir: valid,
					Policy: &ringfencev1.PolicySource{Files: []*ringfencev1.PolicyFile{{Name: valid}}}, Providers: []string{valid},
				},
				Status: &ringfencev1.SandboxStatus{Reason: valid, Rejected: map[string]uint64{valid: 1}},
			}
			d.revisions["web"] = []*ringfencev1.PolicyRevision{{
				Revision: 1, Error: valid, Warnings: []string{valid},
				Source: &ringfencev1.PolicySource{Files: []*ringfencev1.PolicyFile{{Name: valid, Yaml: []byte(text)}}},
			}}
			d.providers["gh"] = &ringfencev1.Provider{Name: "gh", Type: valid, CredentialNames: []string{valid}, Config: map[string]string{valid: valid}}
			line, err := json.Marshal(map[string]any{
				"time": time.Now(), "sandbox": valid, "verdict": valid, "policy": valid, "reason": valid, "detail": valid, "hint": valid,
				"binary": valid, "host": valid, "port": 1,
			})
			if err != nil {
				t.Fatal(err)
			}
			d.records = []*ringfencev1.Record{{Sandbox: valid, Json: string(line)}, {Sandbox: valid, Json: valid}}
			d.state = valid
			var change ringfencev1.SandboxEvent
			change.Type, change.Sandbox = ringfencev1.SandboxEvent_UPDATED, d.sandboxes["web"]
			for range 3 {
				d.changes <- &change
			}
			close(d.changes)
			for _, command := range [][]string{
				{"sandbox", "list"}, {"sandbox", "show", "web"}, {"policy", "revisions", "web"}, {"policy", "get", "web"}, {"sandbox", "watch"},
				{"provider", "list"}, {"provider", "show", "gh"}, {"agent", "status"}, {"events"}, {"events", "-f"},
				{"sandbox", "show", text}, {"sandbox", "delete", text}, {"sandbox", "accept", "web", text}, {"events", "--since", text}, {"events", "--verdict", text},
				{"sandbox", "exec", text}, {"sandbox", "cp", text + ":x", "y"}, {"ssh", text}, {"ssh-config", text}, {"sandbox", "create", text},
				{"sandbox", "list", "--label", text}, {"provider", "create", "p", "--type", "t", "--credential", text + "=secret"},
			} {
				verb := append(command, "")[1]
				for _, format := range []string{"text", "wide", "json", "yaml"} {
					args := command
					if !strings.HasPrefix(command[0], "ssh") && !slices.Contains([]string{"exec", "cp", "accept", "delete"}, verb) {
						args = append(append([]string(nil), command...), "-o", format)
					}
					what := fmt.Sprintf("%q", args)
					stdout, stderr, status := runIn(t, env, args...)
					if verb != "get" || format != "text" { // the policy's own text
						checkShown(t, what, stdout)
					}
					checkShown(t, what, stderr)
					if stdout == "" && stderr == "" && verb != "watch" { // its changes are told once
						t.Errorf("%s says nothing", what)
					}
					lines := command[0] == "events" || verb == "watch"
					if format == "json" && !lines && status == 0 && stdout != "" && !json.Valid([]byte(stdout)) {
						t.Errorf("%s: no JSON: %s", what, stdout)
					}
					var any any
					if err := yaml.Unmarshal([]byte(stdout), &any); format == "yaml" && !lines && status == 0 && err != nil {
						t.Errorf("%s: no YAML: %v\n%s", what, err, stdout)
					}
				}
			}
		})
	}
}

func TestEvents(t *testing.T) {
	d, env := newDouble(t)
	for i, verdict := range []string{"allow", "deny", "allow", "deny", "audit"} {
		d.records = append(d.records, &ringfencev1.Record{
			Cursor: strconv.Itoa(i + 1), Verdict: verdict, Time: api.Time(time.Now()),
			Json: fmt.Sprintf(`{"time":"2026-03-04T05:06:07.89Z","sandbox":"web","verdict":%q,"policy":"p","reason":"r%d","binary":"/usr/bin/c d","host":"2001:db8::1","port":443,"hint":"do","count":%d}`, verdict, i+1, i+1),
		})
	}
	stdout, stderr, status := runIn(t, env, "events")
	if status != 0 || stderr != "" {
		t.Fatalf("status %d, %s", status, stderr)
	}
	var reasons []string
	for _, line := range strings.Split(stdout, "\n") {
		if fields := strings.Fields(line); len(fields) > 8 {
			reasons = append(reasons, fields[8])
		}
	}
	if got := strings.Join(reasons, " "); got != "r1 r2 r3 r4 r5" { // the oldest first, from all pages
		t.Errorf("reasons %q in\n%s", got, stdout)
	}
	moment := time.Date(2026, 3, 4, 5, 6, 7, 890e6, time.UTC).Local().Format("2006-01-02 15:04:05.000")
	want := moment + "  web  DENY  \"/usr/bin/c d\" → [2001:db8::1]:443  r4  (p)  ×4\n  hint: do\n"
	if stdout, _, _ := runIn(t, env, "events", "-n", "1", "--verdict", "deny"); stdout != want {
		t.Errorf("got  %q\nwant %q", stdout, want)
	}
	stdout, _, _ = runIn(t, env, "events", "-n", "3", "-o", "json")
	if lines := strings.Split(strings.TrimSpace(stdout), "\n"); len(lines) != 3 || lines[0] != d.records[2].GetJson() {
		t.Errorf("JSON lines:\n%s", stdout)
	}
	d.lost = 9
	stdout, stderr, status = runIn(t, env, "events", "-f", "-n", "2", "-o", "json")
	if status != 0 || strings.Count(stdout, "\n") != 2 || !strings.Contains(stderr, "9 records were lost here") {
		t.Errorf("following: status %d, %s, %s", status, stdout, stderr)
	}
	// Over a restart: nothing twice, and nothing left out.
	d.restarts = 1
	stdout, stderr, status = runIn(t, env, "events", "-f", "-n", "1", "-o", "json")
	if want := d.records[4].GetJson() + "\n" + d.records[5].GetJson() + "\n"; status != 0 || stdout != want || !strings.Contains(stderr, "the agent has gone") {
		t.Errorf("over a restart: status %d, %s, %s", status, stdout, stderr)
	}
}

// What was done to a sandbox has no program and no host of its own.
func TestRecordLineOfActs(t *testing.T) {
	for text, want := range map[string]string{
		`{"time":"2026-03-04T05:06:07Z","sandbox":"web","verdict":"allow","mode":"ssh","reason":"ssh_exec","source":"192.0.2.1:5","command":"git fetch"}`: `  web  allow  192.0.2.1:5 → "git fetch"  ssh_exec` + "\n",
		`{"time":"2026-03-04T05:06:07Z","sandbox":"web","verdict":"deny","mode":"api","reason":"api_policy","uid":1000,"object":"p"}`:                     `  web  DENY  "uid 1000" → p  api_policy` + "\n",
	} {
		line := recordLine(&ringfencev1.Record{Json: text})
		if got := line[len("2006-01-02 15:04:05.000"):]; got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"10m":                  now.Add(-10 * time.Minute),
		"24h":                  now.Add(-24 * time.Hour),
		"0s":                   now,
		"2026-01-01T00:00:00Z": time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		"-10m":                 {},
		"yesterday":            {},
		"":                     {},
		"10":                   {},
	} {
		got, err := parseMoment("--since", text, now)
		if !got.Equal(want) || (err == nil) == want.IsZero() {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// A server with another host key than the agent says is none of the agent's.
func TestSSHPinsHostKey(t *testing.T) {
	if _, err := os.Stat("/usr/bin/ssh"); err != nil {
		t.Skip("the system has no ssh")
	}
	d, env := newDouble(t)
	d.sandboxes["web"] = &ringfencev1.Sandbox{Name: "web"}
	other, err := sshd.GenerateKey("other")
	if err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(env.Dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", tmp)
	for _, pinned := range []bool{true, false} {
		if !pinned {
			d.ssh.host = other // what the agent says; the server has another
		}
		_, stderr, status := runIn(t, env, "ssh", "web", "true")
		if pinned != (status == 0) {
			t.Errorf("right key %v: status %d, %s", pinned, status, stderr)
		}
		if !pinned && !strings.Contains(stderr, "ey verification failed") {
			t.Errorf("stderr: %s", stderr)
		}
	}
	left, err := filepath.Glob(filepath.Join(tmp, "ringfence*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
