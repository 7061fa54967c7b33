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
		if len(mounts) > strings.Count(text, "\n")+1 {
			t.Errorf("%d mounts", len(mounts))
		}
		for _, m := range mounts {
			if len(m.Point) > len(text) {
				t.Errorf("%+v", m)
			}
		}
	})
}

// FuzzMountNames: a mount whose names hold any bytes is read as the one mount that it
// is, for users may mount (by FUSE) where they like.
func FuzzMountNames(f *testing.F) {
	f.Add("/", "/sys/fs/cgroup", "cgroup2", "rw")
	f.Add("/a b", "/mnt/\t\n\\040#", "fuse.x", "")
	f.Add("/", "/home/u/\u00a0x\u00a0-\u00a0cgroup2\u2003cgroup2\u2003rw", "fuse.sshfs", "rw")
	f.Add("net:[4026531840]", "/run/\r\v\f\xff/x", "nsfs", "rw")
	escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`)
	f.Fuzz(func(t *testing.T, root, point, kind, options string) {
		if root == "" || root == "-" || !strings.HasPrefix(point, "/") || kind == "" || strings.Contains(root+point+kind+options, "\x00") {
			return // which the kernel has not
		}
		line := fmt.Sprintf("36 35 0:31 %s %s rw,nosuid shared:9 master:2 - %s src %s\n",
			escape.Replace(root), escape.Replace(point), escape.Replace(kind), escape.Replace(options))
		if len(line) > 1<<20 {
			return
		}
		mounts, err := parseMounts(strings.NewReader(line))
		want := []Mount{{Root: root, Point: point, Type: kind}}
		if escape.Replace(kind) != kind {
			want[0].Type = escape.Replace(kind) // no file system's name needs it
		}
		if diff := cmp.Diff(want, mounts); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", line, err, diff)
		}
	})
}
