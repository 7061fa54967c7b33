package e2e

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// TestPrograms starts one program in many ways. The policy names the file that the
// kernel runs, whatever way led to it, and nothing else.
func TestPrograms(t *testing.T) {
	testenv.Require(t, "gcc", "bash")
	f := newFixture(t)
	client, other := f.tool(toolC), f.copyOf(f.tool(toolC), "other")
	shell, env, python := realPath(t, "sh"), realPath(t, "env"), realPath(t, "/usr/bin/python3")
	unnamed := f.copyOf("testdata/unnamed.py", "unnamed.py")
	if err := os.Symlink(client, filepath.Join(f.dir, "symlink")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(client, filepath.Join(f.dir, "hardlink")); err != nil {
		t.Fatal(err)
	}
	long := f.copyOf(client, longPath(f.dir))
	loader := loaderOf(t, client)
	const args = " $H 25" // each case has a host of its own
	f.file("script", "#!/bin/sh\n"+client+" $1 $2\n", 0o755)
	const writable = "/tmp/client"

	allow, deny := "allowed", "wrong_binary"
	tests := []struct {
		name, command, reason string
		binary                string
		ancestors             []string // nearest first; after them the steps' own shell
		taints                []string
	}{
		{"directly", client + args, allow, client, nil, nil},
		{"symlink", "./symlink" + args, allow, client, nil, nil},
		{"script", "./script" + args, allow, client, []string{shell}, nil},
		{"env", env + " A=b " + client + args, allow, client, []string{env}, nil},
		{"relative", "cd " + filepath.Dir(f.dir) + "; " + filepath.Base(f.dir) + "/../" + filepath.Base(f.dir) + "/client" + args, allow, client, nil, nil},
		{"proc-self-root", "/proc/self/root" + client + args, allow, client, nil, nil},
		{"long", long + args, allow, long, nil, nil},
		{"fork-without-exec", client + " -f" + args, allow, client, nil, nil},
		{"python-fork", python + ` -c 'import os, subprocess, sys; pid = os.fork(); pid and os._exit(os.waitpid(pid, 0)[1] >> 8); os.execv(sys.argv[1], sys.argv[1:])' ` + client + args, allow, client, []string{python}, nil},

		{"copy", other + args, deny, other, nil, nil},
		{"hardlink", "./hardlink" + args, deny, filepath.Join(f.dir, "hardlink"), nil, nil},
		{"argv0", "bash -c 'exec -a " + client + " " + other + args + "'", deny, other, nil, nil},
		{"loader", loader + " " + client + args, deny, loader, nil, []string{"loader"}},
		{"memfd", python + " " + unnamed + " memfd " + client + args, deny, "", nil, []string{"memfd"}},
		{"deleted", "cp " + client + " " + writable + " && " + python + " " + unnamed + " deleted " + writable + args, "tainted", "", nil, []string{"deleted"}},
	}
	var steps []step
	for _, tt := range tests {
		host := tt.name + ".open.test"
		f.env.Zone(host, openAddrs...)
		steps = append(steps, step{tt.name, "cd " + f.dir + "; export H=" + host + "; " + strings.ReplaceAll(tt.command, "$H", host)})
	}
	r, results := f.steps(f.policy(allowBlock("open", "*.open.test", []int{25}, client, long, writable)), steps)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			verdict := "deny"
			if tt.reason == allow {
				verdict = "allow"
			}
			checkClient(t, results[tt.name], verdict == "allow")
			got := r.one(t, tt.name+".open.test")
			got.check(t, record{Verdict: verdict, Engine: "opa", Reason: tt.reason, Binary: tt.binary})
			for i, want := range tt.ancestors {
				if i >= len(got.Ancestors) || got.Ancestors[i] != want {
					t.Errorf("ancestors = %q, want %q first", got.Ancestors, tt.ancestors)
					break
				}
			}
			if len(got.Ancestors) == 0 || got.Ancestors[len(got.Ancestors)-1] != shell {
				t.Errorf("ancestors = %q, want the command %s last", got.Ancestors, shell)
			}
			for _, want := range tt.taints {
				if !slices.Contains(got.Taints, want) {
					t.Errorf("taints = %q, want %q", got.Taints, want)
				}
			}
			if tt.taints == nil && len(got.Taints) != 0 {
				t.Errorf("taints = %q, want none", got.Taints)
			}
		})
	}
}

// loaderOf returns the dynamic loader that a program names.
func loaderOf(t *testing.T, program string) string {
	t.Helper()
	file, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	section := file.Section(".interp")
	if section == nil {
		t.Fatalf("%s is not dynamically linked", program)
	}
	name, err := section.Data()
	if err != nil {
		t.Fatal(err)
	}
	return realPath(t, strings.TrimRight(string(name), "\x00"))
}

// longPath returns a name below dir whose path has 3,000 bytes and more.
func longPath(dir string) string {
	name := ""
	for len(dir)+len(name) < 3000 {
		name = filepath.Join(name, strings.Repeat("d", 200))
	}
	return filepath.Join(name, "client")
}

// TestForgedRoot: the way to run a program under another's path, a bind mount in a
// user namespace, does not begin. (That the kernel side would see it, is shown
// where there is no seccomp filter: internal/datapath.)
func TestForgedRoot(t *testing.T) {
	testenv.Require(t, "gcc", "unshare")
	f := newFixture(t)
	client, other := f.tool(toolC), f.copyOf(f.tool(toolC), "other")
	r := f.sh(f.allow([]int{25}, client), "unshare -Urm sh -c 'mount --bind "+other+" "+client+" && exec "+client+" "+allowedName+" 25'")
	if r.status == 0 || !strings.Contains(r.stderr, "Operation not permitted") {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
	if len(r.records) != 0 {
		t.Errorf("records: %+v", r.records)
	}
	if n := f.env.Asked(allowedName); n != 0 {
		t.Errorf("the name was looked up %d times upstream", n)
	}
}

// TestRacingPrograms runs an allowed and a denied program against each other, from
// one shell and to one host: each connection is decided for its own program.
func TestRacingPrograms(t *testing.T) {
	testenv.Require(t, "gcc")
	const pairs = 100
	f := newFixture(t)
	client := f.tool(toolC)
	allowed, denied := f.copyOf(client, "one/client"), f.copyOf(client, "two/client")
	r := f.sh(f.allow([]int{25}, allowed), `i=0
while [ $i -lt 100 ]; do
	`+allowed+` allowed.test 25 & `+denied+` allowed.test 25 & wait; i=$((i+1))
done`)
	banners, resets := 0, 0
	for line := range strings.Lines(r.stdout) {
		switch s := sawIn(t, line); s.Stage {
		case "done":
			banners++
		case "read":
			resets++
		default:
			t.Errorf("a client saw %+v", s)
		}
	}
	if banners != pairs || resets != pairs {
		t.Errorf("%d banners and %d resets, want %d of each\n%s", banners, resets, pairs, r.stderr)
	}
	count := map[string]int{}
	pids := map[int]bool{}
	for _, rec := range r.about(allowedName) {
		count[rec.Verdict+" "+rec.Reason+" "+rec.Binary]++
		pids[rec.PID] = true
	}
	if len(count) != 2 || count["allow allowed "+allowed] != pairs || count["deny wrong_binary "+denied] != pairs {
		t.Errorf("records: %v", count)
	}
	if len(pids) != 2*pairs {
		t.Errorf("records name %d processes, want %d", len(pids), 2*pairs)
	}
}
