package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/netns"
	"golang.org/x/sys/unix"
)

// TestSnapshotSees makes one leak of each kind, and looks for its line.
func TestSnapshotSees(t *testing.T) {
	Require(t)
	dir := t.TempDir()
	for _, test := range []struct {
		name string
		make func(t *testing.T) (undo func())
		want string
	}{
		{"goroutine", func(*testing.T) func() {
			stop := make(chan struct{})
			go func() { <-stop }()
			return func() { close(stop) }
		}, "goroutine created by github.com/ringfence/ringfence/internal/testenv.TestSnapshotSees"},
		{"file", func(t *testing.T) func() {
			file, err := os.Create(filepath.Join(dir, "open"))
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = file.Close() }
		}, "descriptor " + dir + "/open"},
		{"pipe", func(t *testing.T) func() {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			return func() { _, _ = r.Close(), w.Close() }
		}, "descriptor pipe: "},
		{"namespace", func(t *testing.T) func() {
			ns, err := netns.New()
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = ns.Close() }
		}, "namespace net:["},
		{"orphan", makeOrphan, "process pid "},
		{"mount", func(t *testing.T) func() {
			if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
				t.Fatal(err)
			}
			return func() { _ = unix.Unmount(dir, 0) }
		}, "mount " + dir},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, err := TakeSnapshot(dir)
			if err != nil {
				t.Fatal(err)
			}
			undo := test.make(t)
			leaked, err := before.Settle(0)
			if err != nil || !slices.ContainsFunc(leaked, func(s string) bool { return strings.Contains(s, test.want) }) {
				t.Errorf("leaked = %q, %v, want a line with %q", leaked, err, test.want)
			}
			undo()
			if leaked, err := before.Settle(5 * time.Second); err != nil || len(leaked) > 0 {
				t.Errorf("leaked after undo = %q, %v", leaked, err)
			}
		})
	}
}

// makeOrphan starts a process in a network namespace of its own whose parent
// ends at once.
func makeOrphan(t *testing.T) func() {
	shell := exec.Command("sh", "-c", "unshare --net sleep 60 >/dev/null 2>&1 & echo $!")
	out, err := shell.Output()
	if err != nil {
		t.Fatal(err)
	}
	procs, err := readProcesses()
	if err != nil {
		t.Fatal(err)
	}
	for pid := range procs {
		if strings.TrimSpace(string(out)) == strconv.Itoa(pid) {
			return func() { _ = syscall.Kill(pid, syscall.SIGKILL) }
		}
	}
	t.Fatalf("no process %s", out)
	return nil
}

// TestSweep leaves one directory of a dead process and one of a live one.
func TestSweep(t *testing.T) {
	root := t.TempDir()
	live, err := newScratchIn(root)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := newScratchIn(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.lock.Close(); err != nil { // as the kernel does at exit
		t.Fatal(err)
	}
	next, err := newScratchIn(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range []struct {
		s    *scratch
		want bool
	}{{live, true}, {dead, false}, {next, true}} {
		if _, err := os.Stat(check.s.dir); (err == nil) != check.want {
			t.Errorf("stat %s = %v, want it there: %t", check.s.dir, err, check.want)
		}
	}
	if err := live.Close(); err != nil {
		t.Error(err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}
