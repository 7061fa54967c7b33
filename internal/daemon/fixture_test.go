package daemon

import (
	"log/slog"
	"path/filepath"
	"testing"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/store"
)

// newStopped returns a service that is not started: it has state, and sandboxes in which
// nothing runs.
func newStopped(t *testing.T, names ...string) *Daemon {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	st, err := store.Open(store.Config{Dir: filepath.Join(t.TempDir(), "state"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	d := &Daemon{store: st, fleet: newFleet(), log: log, library: newLibrary(nil)}
	for _, name := range names {
		claim(t, d.fleet, name)
	}
	return d
}

// claim enters a sandbox that has to be new.
func claim(t *testing.T, f *fleet, name string) *box {
	t.Helper()
	b, ok := f.claim(&pb.Sandbox{Name: name, Spec: &pb.SandboxSpec{}, Status: &pb.SandboxStatus{}})
	if !ok {
		t.Fatalf("there is a sandbox %s already", name)
	}
	b.turn.Unlock()
	return b
}

// texts is a policy of one file.
func texts(name, yaml string) *pb.PolicySource {
	return &pb.PolicySource{Files: []*pb.PolicyFile{{Name: name, Yaml: []byte(yaml)}}}
}
