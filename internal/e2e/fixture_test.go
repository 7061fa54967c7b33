package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// program is the ringfence that TestMain built.
var program string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	// Under nohup SIGHUP is ignored, and so it would be in all that tests start. What
	// is caught here is back to its default there.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	dir, err := os.MkdirTemp("", "ringfence-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// A sandbox's user must be able to reach what tests put below.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	program = filepath.Join(dir, "ringfence")
	build := exec.Command("go", "build", "-o", program, "github.com/ringfence/ringfence/cmd/ringfence")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build ringfence:", err)
		return 1
	}
	return m.Run()
}

// The names that every fixture's internet has. Which of them are allowed is up to
// the policy.
const (
	allowedName = "allowed.test"
	deniedName  = "denied.test"
	allowedIPv4 = "203.0.113.80"
	allowedIPv6 = "2001:db8:2::80"
	deniedIPv4  = "198.51.100.80"
)

// fixture is an internet and the flags of a run that reaches it.
type fixture struct {
	t     testing.TB
	env   *testenv.Env
	dir   string   // readable by every user, and visible in the sandbox
	flags []string // of every run, before those of the test
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	return newFixtureWith(t, testenv.Config{})
}

func newFixtureWith(t testing.TB, config testenv.Config) *fixture {
	t.Helper()
	env := testenv.NewWith(t, config)
	env.Zone(allowedName, netip.MustParseAddr(allowedIPv4), netip.MustParseAddr(allowedIPv6))
	env.Zone(deniedName, netip.MustParseAddr(deniedIPv4))
	dir := t.TempDir()
	// t.TempDir is private to root from its parent on.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f := &fixture{t: t, env: env, dir: dir}
	pem, err := os.ReadFile(env.CA())
	if err != nil {
		t.Fatal(err)
	}
	ca := f.file("ca.pem", string(pem), 0o644) // the original lies below /run, which is masked
	f.flags = []string{
		"--resolver", env.Resolver().String(),
		"--trusted-network", "203.0.113.0/24", "--trusted-network", "2001:db8::/32",
		"--trusted-network", "198.51.100.0/24",
		"--workdir", dir,
		"--env", "CURL_CA_BUNDLE=" + ca, "--env", "SSL_CERT_FILE=" + ca,
		"--env", "GIT_SSL_CAINFO=" + ca, "--env", "NODE_EXTRA_CA_CERTS=" + ca,
	}
	return f
}

// file writes a file that the sandbox can read, and returns its path.
func (f *fixture) file(name, content string, mode os.FileMode) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		f.t.Fatal(err)
	}
	return path
}

// policy writes a policy with the network_policies given, two spaces in.
func (f *fixture) policy(network string) string {
	f.t.Helper()
	return f.file("policy.yaml", "version: 1\nnetwork_policies:\n"+network, 0o644)
}

// allow writes a policy that lets the binaries reach allowedName on the ports.
func (f *fixture) allow(ports []int, binaries ...string) string {
	f.t.Helper()
	return f.policy(allowBlock("allowed", allowedName, ports, binaries...))
}

func allowBlock(key, host string, ports []int, binaries ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s:\n    endpoints:\n      - {host: %q, ports: %s}\n    binaries:\n", key, host, asJSON(ports))
	for _, path := range binaries {
		fmt.Fprintf(&b, "      - {path: %q}\n", path)
	}
	return b.String()
}

// record is one line of --records, as a reader of the file sees it.
type record struct {
	Time       time.Time `json:"time"`
	Sandbox    string    `json:"sandbox"`
	Verdict    string    `json:"verdict"`
	Engine     string    `json:"engine"`
	Policy     string    `json:"policy"`
	Reason     string    `json:"reason"`
	Detail     string    `json:"detail"`
	Hint       string    `json:"hint"`
	Generation int       `json:"generation"`
	Mode       string    `json:"mode"`
	Binary     string    `json:"binary"`
	PID        int       `json:"pid"`
	UID        int       `json:"uid"`
	Ancestors  []string  `json:"ancestors"`
	Host       string    `json:"host"`
	Port       int       `json:"port"`
	Address    string    `json:"address"`
	Sent       int64     `json:"bytes_sent"`
	Received   int64     `json:"bytes_received"`
	DurationMS float64   `json:"duration_ms"`
	ExecID     string    `json:"exec_id"`
	Taints     []string  `json:"taints"`
	SHA256     string    `json:"sha256"`
	Preload    []string  `json:"preload"`
	Script     string    `json:"script"`
	Count      int       `json:"count"`

	User    string `json:"user"`
	Source  string `json:"source"`
	Key     string `json:"key"`
	Command string `json:"command"`
	Object  string `json:"object"`
}

// result is what a run left.
type result struct {
	stdout, stderr string
	status         int
	records        []record
}

// of returns the records of a mode.
func (r *result) of(mode string) []record {
	var found []record
	for _, rec := range r.records {
		if rec.Mode == mode {
			found = append(found, rec)
		}
	}
	return found
}

// running is a run that goes on.
type running struct {
	t              testing.TB
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	recordsPath    string
}

// prepare makes a run that is not started: flags of the test first, then "--" and
// the command.
func (f *fixture) prepare(args ...string) *running {
	f.t.Helper()
	r := &running{t: f.t, recordsPath: filepath.Join(f.t.TempDir(), "records")}
	argv := append([]string{"run", "--agent=never", "--records", r.recordsPath}, f.flags...)
	r.cmd = f.env.Command(program, append(argv, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	return r
}

// start starts a run.
func (f *fixture) start(args ...string) *running {
	f.t.Helper()
	r := f.prepare(args...)
	if err := r.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	return r
}

// wait waits for the end of a run, which is bounded.
func (r *running) wait() *result {
	r.t.Helper()
	timer := time.AfterFunc(2*time.Minute, func() { _ = r.cmd.Process.Kill() })
	defer timer.Stop()
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, context.Canceled) {
		r.t.Fatal(err)
	}
	// An agent that was killed may have been about to write a line.
	read := readRecords
	if status, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
		read = readRecordsSoFar
	}
	return &result{
		stdout: r.stdout.String(), stderr: r.stderr.String(),
		status:  r.cmd.ProcessState.ExitCode(),
		records: read(r.t, r.recordsPath),
	}
}

// run runs to the end.
func (f *fixture) run(args ...string) *result {
	f.t.Helper()
	return f.start(args...).wait()
}

// sh runs a shell script under a policy.
func (f *fixture) sh(policy, script string) *result {
	f.t.Helper()
	return f.run("--policy", policy, "--", "/bin/sh", "-c", script)
}

func readRecords(t testing.TB, path string) []record {
	t.Helper()
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var records []record
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	for decoder.More() {
		var r record
		if err := decoder.Decode(&r); err != nil {
			t.Fatalf("record %d: %v", len(records), err)
		}
		records = append(records, r)
	}
	return records
}

func asJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// realPath is the file that the kernel runs for a program's name.
func realPath(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: %v", name, err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		t.Fatal(err)
	}
	return path
}
