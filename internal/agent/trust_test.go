package agent

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/identity"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
)

// taints keeps the taints of a program by its sandbox.
type taints struct {
	binary string

	mu sync.Mutex
	of map[string][]string
}

func (s *taints) Emit(r *flow.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Binary == s.binary {
		s.of[r.Sandbox] = r.Taints
	}
}

// runIn runs a program in a sandbox of its own.
func runIn(ctx context.Context, a *Agent, cfg SandboxConfig, argv ...string) (err error) {
	sb, err := a.CreateSandbox(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sb.Close()) }()
	user, err := launch.ReservedUser(a.Number())
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	process, err := sb.Exec(ctx, launch.Command{Argv: argv, Dir: "/", UID: user.UID, GID: user.GID, Stdio: [3]*os.File{null, null, null}})
	if err != nil {
		return err
	}
	_, err = process.Wait(ctx)
	return err
}

// A program that is replaced between two agents is changed, as it is within one; a
// sandbox that is told nothing of before knows nothing of it.
func TestTrustSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	sink := &taints{binary: filepath.Join(dir, "tool"), of: map[string][]string{}}
	first := startAgent(t, sink)
	for _, path := range []string{dir, filepath.Dir(dir)} { // the sandbox's user comes by here
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	nc, err := exec.LookPath("nc")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(nc)
	if err != nil {
		t.Fatal(err)
	}
	write := func(more string) {
		t.Helper()
		// Another file, as of a packet manager: in place it would be busy.
		fresh := sink.binary + ".new"
		if err := errors.Join(os.WriteFile(fresh, append(slices.Clone(program), more...), 0o755), os.Rename(fresh, sink.binary)); err != nil {
			t.Fatal(err)
		}
	}
	p, _, err := policy.Load(policy.Source{Name: "test", Data: []byte(
		"version: 1\nnetwork_policies:\n  p:\n    endpoints: [{host: a.test, port: 9}]\n    binaries: [{path: " + sink.binary + "}]\n")})
	if err != nil {
		t.Fatal(err)
	}
	run := func(a *Agent, name string, trusted []identity.Trust, save func([]identity.Trust) error) {
		t.Helper()
		engine, err := policy.NewEngine(t.Context(), p, policy.Config{})
		if err != nil {
			t.Fatal(err)
		}
		cfg := SandboxConfig{Name: name, Engine: engine, Visible: []string{dir}, Trusted: trusted, SaveTrust: save}
		if err := runIn(t.Context(), a, cfg, sink.binary, "192.0.2.9", "9"); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	var trusted []identity.Trust
	run(first, "first", nil, func(all []identity.Trust) error { trusted = all; return nil })
	if len(trusted) != 1 || trusted[0].Path != sink.binary {
		t.Fatalf("trusted: %+v", trusted)
	}
	second := startAgent(t, sink)
	run(second, "same", trusted, nil)
	write("two")
	run(second, "replaced", trusted, nil)
	run(second, "unknown", nil, nil)
	sink.mu.Lock()
	defer sink.mu.Unlock()
	for name, want := range map[string]bool{"first": false, "same": false, "replaced": true, "unknown": false} {
		got, ok := sink.of[name]
		if !ok || slices.Contains(got, "changed") != want {
			t.Errorf("%s: %q, recorded: %v", name, got, ok)
		}
	}
}
