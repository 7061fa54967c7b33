package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The programs of testdata that tests run inside a sandbox.
const (
	toolC    = "client"      // C, with glibc
	toolMusl = "client-musl" // the same, static, with musl
	toolGo   = "probe"       // Go, with its own resolver
)

// tool puts a program of testdata where a sandbox can run it. It is built once.
func (f *fixture) tool(name string) string {
	f.t.Helper()
	built := filepath.Join(filepath.Dir(program), name)
	if _, err := os.Stat(built); err != nil {
		build := buildTool(name, built)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			f.t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return f.copyOf(built, name)
}

func buildTool(name, to string) *exec.Cmd {
	const source = "testdata/client/client.c"
	switch name {
	case toolC:
		return exec.Command("gcc", "-Wall", "-Werror", "-O1", "-o", to, source)
	case toolMusl:
		return exec.Command("musl-gcc", "-static", "-Wall", "-Werror", "-O1", "-o", to, source)
	}
	return exec.Command("go", "build", "-o", to, "./testdata/"+name)
}

// copyOf copies a program, under a path in the fixture's directory.
func (f *fixture) copyOf(program, name string) string {
	f.t.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Join(f.dir, name)), 0o755); err != nil {
		f.t.Fatal(err)
	}
	return f.file(name, string(data), 0o755)
}

// saw is what the programs of testdata print.
type saw struct {
	Stage    string  `json:"stage"` // of the C client: how far it came
	Errno    int     `json:"errno"` // of the C client; of getaddrinfo in the stage resolve
	Error    string  `json:"error"` // of the Go client
	MS       float64 `json:"ms"`    // connect and first read together
	Peer     string  `json:"peer"`
	Data     string  `json:"data"`
	Conns    int     `json:"conns"`
	Sent     int64   `json:"sent"`
	Received int64   `json:"received"`
	SentSum  string  `json:"sent_sum"`
	Sum      string  `json:"sum"`
}

func sawIn(t testing.TB, output string) saw {
	t.Helper()
	var s saw
	if err := json.Unmarshal([]byte(output), &s); err != nil {
		t.Fatalf("output %q: %v", output, err)
	}
	return s
}

// step is one shell command of several that run in one sandbox, in turn.
type step struct{ name, command string }

// stepResult is what a step left; its output has both streams.
type stepResult struct {
	output string
	status int
}

var stepEnd = regexp.MustCompile(`(?m)^--8<-- (\d+) (\d+)\n`)

// steps runs the commands in one sandbox; args are flags of run.
func (f *fixture) steps(policy string, steps []step, args ...string) (*result, map[string]stepResult) {
	f.t.Helper()
	var script strings.Builder
	for i, s := range steps {
		// A subshell: what a step sets or breaks is its own.
		fmt.Fprintf(&script, "( %s\n) </dev/null 2>&1; printf '\\n--8<-- %%d %%d\\n' %d $?\n", s.command, i)
	}
	args = append(args, "--policy", policy, "--", "/bin/sh", f.file("steps.sh", script.String(), 0o644))
	r := f.run(args...)
	found := make(map[string]stepResult)
	start := 0
	for _, at := range stepEnd.FindAllStringSubmatchIndex(r.stdout, -1) {
		i, _ := strconv.Atoi(r.stdout[at[2]:at[3]])
		status, _ := strconv.Atoi(r.stdout[at[4]:at[5]])
		found[steps[i].name] = stepResult{output: strings.TrimSpace(r.stdout[start:at[0]]), status: status}
		start = at[1]
	}
	if len(found) != len(steps) {
		f.t.Fatalf("%d of %d steps ended\nstderr: %s\nstdout: %s", len(found), len(steps), r.stderr, r.stdout)
	}
	return r, found
}

// about returns the records about a host.
func (r *result) about(host string) []record {
	var found []record
	for _, rec := range r.records {
		if rec.Host == host {
			found = append(found, rec)
		}
	}
	return found
}

// one returns the only record about a host.
func (r *result) one(t testing.TB, host string) record {
	t.Helper()
	found := r.about(host)
	if len(found) != 1 {
		t.Fatalf("%d records about %s, want 1: %+v\nall: %+v", len(found), host, found, r.records)
	}
	return found[0]
}

// check compares the fields of a record that want sets. A zero field of want says
// nothing.
func (got record) check(t testing.TB, want record) {
	t.Helper()
	compare := func(field, is, want string) {
		if want != "" && is != want {
			t.Errorf("record's %s = %q, want %q: %+v", field, is, want, got)
		}
	}
	compare("verdict", got.Verdict, want.Verdict)
	compare("engine", got.Engine, want.Engine)
	compare("reason", got.Reason, want.Reason)
	compare("policy", got.Policy, want.Policy)
	compare("mode", got.Mode, want.Mode)
	compare("binary", got.Binary, want.Binary)
	compare("host", got.Host, want.Host)
	compare("address", got.Address, want.Address)
	if want.Port != 0 && got.Port != want.Port {
		t.Errorf("record's port = %d, want %d", got.Port, want.Port)
	}
	if want.Sent != 0 && got.Sent != want.Sent || want.Received != 0 && got.Received != want.Received {
		t.Errorf("record's bytes = %d and %d, want %d and %d", got.Sent, got.Received, want.Sent, want.Received)
	}
}
