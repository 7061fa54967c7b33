package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func makeGroup(t *testing.T) *Group {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skip: root is needed to make cgroups")
	}
	root, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	g, err := Create(filepath.Join(root, fmt.Sprintf("rf-cgroup-test-%d-%d", os.Getpid(), time.Now().UnixNano())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Kill(context.Background()); _ = g.Remove(); _ = g.Close() })
	return g
}

func startIn(t *testing.T, g *Group, argv ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(argv[0], argv[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.File().Fd())}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLife(t *testing.T) {
	g := makeGroup(t)
	info, err := os.Stat(g.Path())
	if err != nil || info.Sys().(*syscall.Stat_t).Ino != g.ID() {
		t.Errorf("id %d, %v", g.ID(), err)
	}
	if _, err := Create(g.Path()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create again: %v", err)
	}
	nested, err := Create(filepath.Join(g.Path(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer nested.Close()
	if err := os.MkdirAll(filepath.Join(g.Path(), "b", "c"), 0o755); err != nil {
		t.Fatal(err)
	}
	one := startIn(t, g, "sh", "-c", "trap '' TERM HUP; setsid sleep 1000 & sleep 1000")
	two := startIn(t, nested, "sleep", "1000")
	if err := g.Remove(); err == nil {
		t.Error("removed with processes inside")
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*exec.Cmd{one, two} {
		_ = c.Wait()
		if ws := c.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGKILL {
			t.Errorf("%v ended with %v", c, ws)
		}
	}
	for range 2 { // the second time it is gone already
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Open(g.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open after remove: %v", err)
	}
}

func TestKillEmpty(t *testing.T) {
	if err := makeGroup(t).Kill(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesOtherDirectories(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNotCgroup) {
		t.Errorf("error %v", err)
	}
}

func TestUnsupportedNamesTheKernel(t *testing.T) {
	var unsupported *UnsupportedError
	if err := needed(errNotMounted); !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "5.14") {
		t.Errorf("error %v", err)
	}
}

const mountinfo = `24 30 0:22 / /proc rw,nosuid shared:12 - proc proc rw
35 30 0:30 / /sys/fs/cgroup\040v2 rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate
36 35 0:31 /sub/dir\134x /mnt/\303\244 rw - cgroup2 none rw
short line
37 35 0:31 / /no/dash rw shared:1 cgroup2 none rw
`

func TestParseMounts(t *testing.T) {
	got, err := parseMounts(strings.NewReader(mountinfo))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{"/", "/proc", "proc"},
		{"/", "/sys/fs/cgroup v2", "cgroup2"},
		{`/sub/dir\x`, "/mnt/ä", "cgroup2"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(mountinfo)
	f.Add("1 2 3:4 \\0 \\377 x - cgroup2\n")
	f.Fuzz(func(t *testing.T, text string) {
		mounts, _ := parseMounts(strings.NewReader(text))
		for _, m := range mounts {
			if len(m.Point) > len(text) || m.Type == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}
