package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/testenv"
)

const (
	sandboxUser = 2013200000
	// landlockABI is the version of Landlock that has all that is tested (Linux 6.10).
	landlockABI = 5
)

// baseFiles is the filesystem_policy (and landlock) of the shipped policy base.
func baseFiles(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../../policies/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "\nfilesystem_policy:\n")
	section, _, ended := strings.Cut(after, "\nprocess:")
	if !found || !ended {
		t.Fatal("base.yaml has no filesystem_policy before its process")
	}
	return "filesystem_policy:\n" + section + "\n"
}

// withFiles writes a policy that says something of files.
func (f *fixture) withFiles(files string) string {
	f.t.Helper()
	return f.file("policy.yaml", "version: 1\n"+files+"network_policies:\n"+allowBlock("allowed", allowedName, []int{443}, "/bin/none"), 0o644)
}

// cleanSandbox removes /sandbox after the test where it was not there before: it is
// made, and is meant to stay.
func cleanSandbox(t testing.TB) {
	t.Helper()
	if _, err := os.Lstat("/sandbox"); !os.IsNotExist(err) {
		testenv.SkipOn(t, &testenv.Skip{Reason: "/sandbox is there already, and would be written"})
	}
	t.Cleanup(func() {
		if err := os.RemoveAll("/sandbox"); err != nil {
			t.Error(err)
		}
	})
}

// readBack is what testdata/readback.py prints.
type readBack struct {
	Status                         map[string]string
	Core                           [2]int
	Dumpable, Seccomp, Descriptors any
	NoNewPrivs                     int `json:"no_new_privs"`
	Namespaces                     map[string]string
	SetUID                         string
	Init                           string
	Files, Sockets                 []string
}

// TestReadBack asks a program of the sandbox everything that there is to ask.
func TestReadBack(t *testing.T) {
	f := newFixture(t)
	testenv.RequireLandlock(t, landlockABI)
	cleanSandbox(t)
	script := f.copyOf("testdata/readback.py", "readback.py")
	secret := f.file("secret", "x", 0o666)
	files := []struct{ do, path, want string }{
		{"read", "/usr/bin/env", "OK"}, {"list", "/usr", "OK"}, {"read", "/etc/passwd", "OK"}, {"read", "/proc/self/status", "OK"},
		{"create", "/sandbox/new", "OK"}, {"write", "/sandbox/new", "OK"}, {"truncate", "/sandbox/new", "OK"}, {"mkdir", "/sandbox/dir", "OK"},
		{"create", "/tmp/new", "OK"}, {"write", "/dev/null", "OK"}, {"read", "/dev/urandom", "OK"},
		{"read", secret, "OK"}, {"write", secret, "OK"}, // the working directory
		{"list", "/", "EACCES"}, {"list", "/home", "EACCES"}, {"list", "/var", "EACCES"}, {"list", "/sys", "EACCES"}, {"list", "/run", "EACCES"},
		{"create", "/var/tmp/new", "EACCES"}, {"mkdir", "/usr/new", "EACCES"}, {"write", "/proc/self/mem", "EROFS"},
		{"create", "/dev/new", "EACCES"},
	}
	const unixFamily, inet, inet6, netlink = 1, 2, 10, 16
	const stream, dgram, raw, seqpacket = 1, 2, 3, 5
	sockets := []struct {
		triple [3]int
		want   string
	}{
		{[3]int{unixFamily, stream, 0}, "OK"}, {[3]int{unixFamily, dgram, 0}, "OK"}, {[3]int{unixFamily, seqpacket, 0}, "OK"},
		{[3]int{inet, stream, 0}, "OK"}, {[3]int{inet, stream, 6}, "OK"}, {[3]int{inet6, stream, 0}, "OK"},
		{[3]int{inet, dgram, 0}, "OK"}, {[3]int{inet6, dgram, 17}, "OK"}, {[3]int{netlink, raw, 0}, "OK"},
		{[3]int{inet, stream, 262}, "EPERM"}, {[3]int{inet, stream, 132}, "EPROTONOSUPPORT"}, {[3]int{inet, dgram, 1}, "EPROTONOSUPPORT"},
		{[3]int{inet, dgram, 136}, "EPROTONOSUPPORT"}, {[3]int{inet, raw, 1}, "EPERM"}, {[3]int{inet6, raw, 58}, "EPERM"},
		{[3]int{netlink, raw, 4}, "EPROTONOSUPPORT"}, {[3]int{netlink, raw, 9}, "EPROTONOSUPPORT"}, {[3]int{netlink, raw, 15}, "EPROTONOSUPPORT"},
		{[3]int{17, raw, 0}, "EAFNOSUPPORT"}, {[3]int{38, seqpacket, 0}, "EAFNOSUPPORT"}, {[3]int{40, stream, 0}, "EAFNOSUPPORT"},
		{[3]int{30, seqpacket, 0}, "EAFNOSUPPORT"}, {[3]int{44, raw, 0}, "EAFNOSUPPORT"}, {[3]int{43, stream, 0}, "EAFNOSUPPORT"},
	}
	var tries struct {
		Files   [][2]string `json:"files"`
		Sockets [][3]int    `json:"sockets"`
	}
	want := readBack{}
	for _, file := range files {
		tries.Files, want.Files = append(tries.Files, [2]string{file.do, file.path}), append(want.Files, file.want)
	}
	for _, s := range sockets {
		tries.Sockets, want.Sockets = append(tries.Sockets, s.triple), append(want.Sockets, s.want)
	}
	id := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%d ", sandboxUser), 4), " ")
	const none = "0000000000000000"
	want.Status = map[string]string{
		"Uid": id, "Gid": id, "Groups": "", "CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2",
	}
	want.NoNewPrivs, want.Dumpable, want.Seccomp = 1, 1.0, 2.0
	want.Descriptors = []any{0.0, 1.0, 2.0}
	want.SetUID, want.Init = "EPERM", "EPERM"

	r := f.run("--user", fmt.Sprint(sandboxUser), "--policy", f.withFiles(baseFiles(t)), "--", "/usr/bin/python3", script, asJSON(tries))
	var got readBack
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("%v\nstatus %d\n%s\n%s", err, r.status, r.stdout, r.stderr)
	}
	if got.Status["Seccomp_filters"] == "" || got.Status["Seccomp_filters"] == "0" {
		t.Errorf("%q filters of system calls", got.Status["Seccomp_filters"])
	}
	delete(got.Status, "Seccomp_filters")
	for ns, inside := range got.Namespaces {
		outside, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || (inside == outside) != (ns == "user") {
			t.Errorf("%s namespace: %s, of the host: %s, %v", ns, inside, outside, err)
		}
	}
	got.Namespaces = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// What was missing is told and made; the rest of the policy stands.
	for _, told := range []string{"/sandbox was missing, and was made"} {
		if !strings.Contains(r.stderr, told) {
			t.Errorf("stderr has no %q:\n%s", told, r.stderr)
		}
	}
	if info, err := os.Stat("/sandbox"); err != nil || info.Sys().(*syscall.Stat_t).Uid != sandboxUser {
		t.Errorf("/sandbox: %v, %v", info, err)
	}
}

// Ordinary programs start, and do their work, under the files of base.
func TestProgramsUnderBase(t *testing.T) {
	f := newFixture(t)
	testenv.RequireLandlock(t, landlockABI)
	cleanSandbox(t)
	testenv.Require(t, "git", "node", "bash", "gcc")
	if err := os.Chmod(f.dir, 0o777); err != nil { // its user works here
		t.Fatal(err)
	}
	tests := []struct{ name, script, want string }{
		{"bash", `bash -c 'set -e; cd /sandbox; for i in 1 2; do echo $i; done > out; mv out /tmp/out; read -r x < /tmp/out; cat <<< $x; exec 3<>/dev/null; [ ! -t 3 ]; echo > >(cat)'`, "1"},
		{"git", `set -e; export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
			git init -q /sandbox/a; cd /sandbox/a; echo hello > f; git add f; git commit -qm x; git clone -q file:///sandbox/a /tmp/b; git -C /tmp/b gc -q; cat /tmp/b/f`, "hello"},
		{"python", `/usr/bin/python3 -c 'import tempfile, ssl, multiprocessing, os, pty
p = multiprocessing.Pool(2); assert p.map(abs, [-1]) == [1]; p.close(); p.join()
tempfile.TemporaryFile().close(); os.makedirs("/sandbox/p/q"); pty.openpty(); print("python")'`, "python"},
		{"node", `node -e 'const fs = require("fs"), os = require("os"); os.cpus(); fs.mkdtempSync("/tmp/x"); fs.writeFileSync("/sandbox/n", "node"); fs.mkdirSync("/sandbox/nd"); fs.renameSync("/sandbox/n", "/sandbox/nd/n"); console.log(fs.readFileSync("/sandbox/nd/n", "utf8"))'`, "node"},
		{"a compiler", `cd /sandbox && printf '#include <stdio.h>\nint main(void) { puts("ran"); return 0; }' > c.c && gcc -pipe -o c c.c && ./c`, "ran"},
		{"the working directory", `echo here > file && cat file`, "here"},
		{"find and xargs", `find /usr/bin -name env -print0 | xargs -0 -n1 basename`, "env"},
	}
	policy := f.withFiles(baseFiles(t))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := f.with(t)
			r := f.run("--user", fmt.Sprint(sandboxUser), "--policy", policy, "--", "/bin/bash", "-c", tt.script)
			if r.status != 0 || strings.TrimSpace(r.stdout) != tt.want {
				t.Errorf("status %d, %q\n%s", r.status, r.stdout, r.stderr)
			}
		})
	}
}

// A policy that requires what is not there starts nothing, and says what to do.
func TestRequiredFiles(t *testing.T) {
	f := newFixture(t)
	testenv.RequireLandlock(t, landlockABI)
	const hard = "landlock: {compatibility: hard_requirement}\n"
	policy := f.withFiles(hard + "filesystem_policy: {read_only: [/usr, /bin, /lib, /lib64, /no/such/path]}\n")
	r := f.run("--policy", policy, "--", "true")
	if r.status != 125 || !strings.Contains(r.stderr, "/no/such/path: no such file") || !strings.Contains(r.stderr, "hint: make it right") {
		t.Errorf("status %d\n%s", r.status, r.stderr)
	}
	noneAbandoned(t)
	policy = f.withFiles(hard + "filesystem_policy: {read_only: [/usr, /bin, /lib]}\n")
	if r := f.run("--policy", policy, "--", "/bin/sh", "-c", "! ls /etc 2>/dev/null"); r.status != 0 {
		t.Errorf("status %d\n%s", r.status, r.stderr)
	}
	// A program that the policy does not let start says so.
	policy = f.withFiles("filesystem_policy: {read_only: [/etc]}\n")
	if r := f.run("--policy", policy, "--", "/bin/sh", "-c", "true"); r.status != 126 || !strings.Contains(r.stderr, "hint: the policy's filesystem_policy") {
		t.Errorf("status %d\n%s", r.status, r.stderr)
	}
}

// Another filesystem_policy is taken as a new generation, and told to be for the
// next sandbox: what runs goes on as it was started.
func TestReloadOfFiles(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	testenv.RequireLandlock(t, landlockABI)
	policy := f.withFiles("filesystem_policy: {read_only: [/usr, /bin, /lib, /lib64, " + f.dir + "]}\n")
	until := filepath.Join(f.dir, "until")
	r, out := f.startSaying(policy, "echo ready; while [ ! -e "+until+" ]; do sleep 0.05; done; cat /etc/passwd")
	text, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	next := f.file("next.yaml", strings.Replace(string(text), "/usr,", "/usr, /etc,", 1), 0o644)
	if err := os.Rename(next, policy); err != nil {
		t.Fatal(err)
	}
	await(t, "a record of the reload", func() bool { return len(r.reloads()) >= 1 })
	if rec := r.reloads()[0]; rec.Reason != "policy_loaded" {
		t.Errorf("record %+v", rec)
	}
	f.file("until", "", 0o644)
	said := rest(t, out)
	got := r.wait()
	if got.status == 0 || said != "" || strings.Count(got.stderr, "the policy names other files") != 1 {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
}
