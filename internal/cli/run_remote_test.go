package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A command is ended with its run, and the sandbox goes.
func TestRunInServiceIsEnded(t *testing.T) {
	d, env := newDouble(t)
	env.Stderr = os.Stderr
	_, stdout, done := execPiped(t, env, "run", "sh", "-c", `trap 'echo got it; exit 3' TERM; echo ready; read x`)
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	sandboxes := len(d.sandboxes)
	d.mu.Unlock()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(stdout)
	if status := <-done; err != nil || status != 3 || string(said) != "got it\n" {
		t.Errorf("status %d, %q, %v", status, said, err)
	}
	if sandboxes != 1 || len(d.sandboxes) != 0 {
		t.Errorf("%d sandboxes while it ran, %d afterwards", sandboxes, len(d.sandboxes))
	}
}

// A policy file that changes is the agent's next revision; one that is no policy is not.
func TestRunInServiceFollowsPolicy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has files that nobody else can have written")
	}
	d, env := newDouble(t)
	dir, err := os.MkdirTemp("/root", "policy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "p.yaml")
	policy := func(host string) string {
		return "version: 1\nnetwork_policies: {p: {endpoints: [{host: " + host + ", port: 1}], binaries: [{path: /usr/bin/true}]}}\n"
	}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put(policy("one.test"))
	stdin, stdout, done := execPiped(t, env, "run", "--policy", path, "sh", "-c", "echo ready; read x")
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	inForce := func(host string) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, revisions := range d.revisions {
			files := revisions[0].GetSource().GetFiles()
			return len(files) == 1 && strings.Contains(string(files[0].GetYaml()), host)
		}
		return false
	}
	if !inForce("one.test") {
		t.Error("the sandbox was not made by the policy")
	}
	put("version: 2\n")
	put(policy("two.test"))
	for deadline := time.Now().Add(10 * time.Second); !inForce("two.test"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the policy was not set")
		}
	}
	stdin.Close()
	if status := <-done; status != 0 && status != 1 { // of read, which has read nothing
		t.Errorf("status %d", status)
	}
}

// On a terminal it is said where the command runs, and a summary follows.
func TestRunInServiceOnTerminal(t *testing.T) {
	d, env := newDouble(t)
	p, terminal := sitDown(t)
	env.Stdin, env.Stdout, env.Stderr = terminal, terminal, terminal
	if status := Main(env, []string{"run", "sh", "-c", "test -t 0 && echo at a terminal"}); status != 0 {
		t.Errorf("status %d", status)
	}
	p.await(t, "ringfence: in sandbox run-")
	p.await(t, "at a terminal")
	p.await(t, "h1.test:443")
	p.await(t, `/usr/bin/tool\xff`)
	if strings.Contains(p.text(), "h0.test") {
		t.Errorf("what was asked of the agent is summed up:\n%s", p.text())
	}
	if len(d.sandboxes) != 0 {
		t.Error("the sandbox is there still")
	}
}
