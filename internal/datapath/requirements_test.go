package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/floor"
	"github.com/ringfence/ringfence/internal/testenv"
)

func TestRequirements(t *testing.T) {
	testenv.Require(t)
	for _, r := range Requirements() {
		if !r.Required() || r.State != floor.Met {
			t.Errorf("%+v", r)
		}
	}
}

func TestJudgeFeatures(t *testing.T) {
	gives := func(name string, err error) feature {
		return feature{name, func() error { return err }}
	}
	unsupported := fmt.Errorf("probe: %w", ebpf.ErrNotSupported)
	forbidden := fmt.Errorf("load program: %w", unix.EPERM)
	denied, deniedFound := floor.Missing, "no b (load program: operation not permitted)"
	if os.Geteuid() != 0 {
		denied, deniedFound = floor.Unknown, "only root can tell"
	}
	tests := []struct {
		name  string
		tried []feature
		state floor.State
		found string
	}{
		{"all there", []feature{gives("a", nil), gives("b", nil)}, floor.Met, "a, b"},
		{"one not", []feature{gives("a", nil), gives("b", unsupported)}, floor.Missing, "no b"},
		{"two not", []feature{gives("a", unsupported), gives("b", unsupported)}, floor.Missing, "no a, b"},
		{"not looked at", []feature{gives("a", nil), gives("b", forbidden)}, denied, deniedFound},
		{"another error", []feature{gives("a", errors.New("odd"))}, floor.Missing, "no a (odd)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := judgeFeatures("features", tt.tried, "do something")
			if got.State != tt.state || got.Found != tt.found || !got.Required() {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestBPFFileSystem(t *testing.T) {
	dir := t.TempDir()
	if got := bpfFileSystem(dir); got.State != floor.Met || got.Found != "not mounted; a start mounts it" {
		t.Errorf("a directory: %+v", got)
	}
	if got := bpfFileSystem(filepath.Join(dir, "none")); got.State != floor.Missing {
		t.Errorf("no directory: %+v", got)
	}
	if err := knowsFileSystem("no such type"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("error %v", err)
	}
}

func TestNoTypeInformation(t *testing.T) {
	if got := typeInformation(filepath.Join(t.TempDir(), "vmlinux")); got.State != floor.Missing || !got.Required() {
		t.Errorf("%+v", got)
	}
}
