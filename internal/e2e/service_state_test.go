package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/store"
	"github.com/ringfence/ringfence/internal/testenv"
)

// refuses starts the agent, which must end at once and say each of the words.
func (s *service) refuses(t *testing.T, words ...string) {
	t.Helper()
	s.log = &safeBuffer{}
	s.launch()
	select {
	case err := <-s.exited:
		s.exited <- err
		if err == nil {
			t.Error("the agent ended well")
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("the agent does not refuse to start\n%s", s.log)
	}
	for _, word := range words {
		if !strings.Contains(s.log.String(), word) {
			t.Errorf("%q is not said in\n%s", word, s.log)
		}
	}
}

// openState opens the state of an agent that does not run.
func (s *service) openState(t *testing.T, use func(*store.Store)) {
	t.Helper()
	st, err := store.Open(store.Config{Dir: s.state, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	use(st)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is wrong with the state is told, and nothing is written over: sandboxes wait,
// fenced and alive, until it is put right.
func TestServiceStateIsWrong(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	s := f.newService()
	const secret = "sk-of-nobody-at-all"
	_, err := s.client.Providers.CreateProvider(t.Context(), &pb.CreateProviderRequest{Provider: &pb.Provider{
		Name: "claude", Type: "anthropic", Credentials: map[string]string{"key": secret},
	}})
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	open := filepath.Join(f.dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o777), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl"))))
	s.detach("one", "while :; do curl -sS --max-time 5 -o /dev/null https://"+allowedName+"/ 2>/dev/null; echo $? >>"+open+"/said; sleep 0.05; done")
	said := func() string { return string(readFile(t, filepath.Join(open, "said"))) }
	await(t, "the loop connects", func() bool { return isFile(filepath.Join(open, "said")) && strings.Contains(said(), "0\n") })
	before, pids := s.identities(), s.processes(t, "one")
	_ = s.stop(syscall.SIGTERM)

	state, key := filepath.Join(s.state, "state.db"), filepath.Join(s.state, "key")
	whole, rightKey := readFile(t, state), readFile(t, key)
	if bytes.Contains(whole, []byte(secret)) {
		t.Error("the secret lies in the state in the clear")
	}
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	garbage := bytes.Clone(whole)
	for i := 2 * os.Getpagesize(); i < len(garbage); i += 7 {
		garbage[i] ^= 0x55
	}
	tests := []struct {
		name  string
		spoil func()
		words []string
	}{
		{"no key", func() { _ = os.Remove(key) }, []string{"it is missing", "hint:", "put a copy of the key back"}},
		{"another key", func() { write(key, bytes.Repeat([]byte{7}, 32)) }, []string{"sealed with another one", "hint:"}},
		{"half a key", func() { write(key, rightKey[:16]) }, []string{"32 bytes", "hint:"}},
		{"readable key", func() { _ = os.Chmod(key, 0o644) }, []string{"0644", "hint:", "chmod 600"}},
		{"garbage", func() { write(state, garbage) }, []string{"broken", "hint:", "put a copy of the file back"}},
		{"cut", func() { write(state, whole[:len(whole)/2]) }, []string{"broken", "hint:"}},
		{"empty", func() { write(state, nil) }, []string{"broken", "hint:"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.spoil()
			spoiledState, _ := os.ReadFile(state)
			spoiledKey, _ := os.ReadFile(key)
			s.refuses(t, append(tt.words, "ringfence: start state: state in "+s.state)...)
			if now, _ := os.ReadFile(state); !bytes.Equal(now, spoiledState) {
				t.Error("the state was changed")
			}
			if now, _ := os.ReadFile(key); !bytes.Equal(now, spoiledKey) {
				t.Error("the key was changed")
			}
			write(state, whole)
			write(key, rightKey)
			if err := os.Chmod(key, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	if now := s.processes(t, "one"); len(now) == 0 || now[0] != pids[0] {
		t.Errorf("processes %q, were %q", now, pids)
	}
	failed := len(said())
	await(t, "the loop is refused", func() bool { return len(said()) > failed+6 })
	if after := said()[failed:]; strings.Contains(after, "\n0\n") {
		t.Errorf("without an agent the loop has connected: %q", after)
	}

	s.start()
	if status := s.status(); status.GetAdopted() != 1 || s.identities() != before {
		t.Errorf("status %v, sandboxes were\n%s\nand are\n%s", status, before, s.identities())
	}
	served := len(said())
	await(t, "the loop is served again", func() bool { return strings.Contains(said()[served:], "0\n") })
	_ = s.stop(syscall.SIGTERM)
	s.openState(t, func(st *store.Store) {
		value, err := st.GetSecret(store.Providers, "claude/credentials")
		if err != nil || !strings.Contains(string(value), secret) {
			t.Errorf("credentials after all restarts: %q, %v", value, err)
		}
	})
	s.start()
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// On a full disk nothing new is made, and it is told why. What there is goes on.
func TestServiceFullDisk(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	s := f.newService("--state-dir", disk)
	s.state = disk
	text := networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl")))
	s.create("old", text)
	_, err := s.client.Providers.CreateProvider(t.Context(), &pb.CreateProviderRequest{Provider: &pb.Provider{Name: "p", Type: "anthropic"}})
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	filler := filepath.Join(disk, "filler")
	if err := fill(filler); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill disk: %v", err)
	}
	for i := range 3 {
		_, err := s.client.Sandboxes.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Name: fmt.Sprint("new", i), Spec: &pb.SandboxSpec{Policy: policySource(text)}})
		fails(t, err, api.CodeResourceExhausted)
		if err != nil && !strings.Contains(api.ErrorOf(err).Message, "no space left on device") {
			t.Errorf("create on a full disk: %v", api.ErrorOf(err))
		}
	}
	check := func() {
		t.Helper()
		all := s.whole(t)
		if len(all) != 1 || len(all["old"].GetSpec().GetLabels()) != 0 || all["old"].GetStatus().GetPolicyRevision() != 1 {
			t.Errorf("sandboxes: %v", all)
		}
		if _, errOut, status := s.exec("old", "curl -sS --max-time 10 -o /dev/null https://"+allowedName+"/"); status != 0 {
			t.Errorf("what there was does not go on: %s", errOut)
		}
		list, err := s.client.Providers.ListProviders(t.Context(), &pb.ListProvidersRequest{})
		if err != nil || len(list.GetProviders()) != 1 {
			t.Errorf("providers: %v, %v", list, err)
		}
	}
	check()
	// A restart while the disk is full ends nothing.
	before := s.identities()
	_ = s.stop(syscall.SIGKILL)
	if err := fill(filler); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill disk: %v", err)
	}
	s.start()
	if after := s.identities(); after != before {
		t.Errorf("sandboxes were\n%s\nand are\n%s", before, after)
	}
	check()
	_ = s.stop(syscall.SIGKILL)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.start()
	check()
	s.create("new0", text)
}

// fill writes a file until there is no room.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			return err
		}
	}
}
