package datapath

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ringfence/ringfence/internal/flow"
)

const dest = "203.0.113.7:443"

// ancestry returns the paths of an exec's ancestors, nearest first.
func ancestry(t *testing.T, f *fixture, e flow.Exec) []string {
	t.Helper()
	var paths []string
	for _, id := range e.Ancestors {
		a, err := f.dp.ReadExec(id)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, a.Path)
	}
	return paths
}

func realPath(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

// taints returns all but writable: these programs are root's, who can write all.
func taints(e flow.Exec) flow.Taint { return e.Taints &^ flow.TaintWritable }

// Each way of starting a program must name the file that the kernel ran.
func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	shell, me := realPath(t, "sh"), self(t)
	env, err := exec.LookPath("env") // named in full, or a busybox shell would be env itself
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(me, link); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"+me+" probe tcp="+dest+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	long := dir
	for len(long) < 3000 {
		long = filepath.Join(long, strings.Repeat("d", 200))
	}
	long = filepath.Join(long, "program")
	copyFile(t, me, long)

	probe := " probe tcp=" + dest
	tests := []struct {
		name      string
		argv      []string
		path      string
		ancestors []string
	}{
		{"directly", []string{me, "probe", "tcp=" + dest}, me, nil},
		{"through a symlink", []string{link, "probe", "tcp=" + dest}, me, nil},
		{"child of a shell", []string{"/bin/sh", "-c", me + probe + "; true"}, me, []string{shell}},
		{"exec in place", []string{"/bin/sh", "-c", "exec " + me + probe}, me, []string{shell}},
		{"env", []string{"/bin/sh", "-c", "exec " + env + " " + me + probe}, me, []string{realPath(t, env), shell}},
		{"a script", []string{script}, me, []string{shell}},
		{"relative path", []string{"/bin/sh", "-c", "cd " + filepath.Dir(me) + " && ./" + filepath.Base(me) + probe}, me, []string{shell}},
		{"forged argv", []string{me, "probe", "exec=" + me + ",/usr/bin/curl,tcp=" + dest}, me, []string{me}},
		{"a 3,000-byte path", []string{long, "probe", "tcp=" + dest}, long, nil},
		{"orphan", []string{"/bin/sh", "-c", "(" + me + " probe sleep=100ms tcp=" + dest + " &)"}, me, []string{shell}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, tt.argv...)
			f.start()
			e, _ := f.take(f.capture4)
			if e.Path != tt.path || taints(e) != 0 {
				t.Errorf("path = %q, taints %v; want %q and none", e.Path, e.Taints.Names(), tt.path)
			}
			if got := ancestry(t, f, e); !cmp.Equal(got, tt.ancestors) {
				t.Errorf("ancestors = %v, want %v", got, tt.ancestors)
			}
		})
	}
}

// A chain of execs longer than the bound keeps the nearest sixteen, and the
// records of the others are freed.
func TestLongAncestryIsBounded(t *testing.T) {
	script := "n=$1; if [ $n -gt 0 ]; then exec /bin/sh -c \"$0\" \"$0\" $((n-1)); fi; exec " + self(t) + " probe tcp=" + dest
	f := newFixture(t, "/bin/sh", "-c", script, script, "100")
	f.start()
	e, _ := f.take(f.capture4)
	if len(e.Ancestors) != flow.MaxAncestors {
		t.Errorf("%d ancestors", len(e.Ancestors))
	}
	if got := f.stats().Execs; got > flow.MaxAncestors+1 {
		t.Errorf("%d exec records are kept", got)
	}
}

func TestTaints(t *testing.T) {
	dir := t.TempDir()
	me := self(t)
	deleted := filepath.Join(dir, "deleted")
	copyFile(t, me, deleted)
	allowed := filepath.Join(dir, "allowed")
	copyFile(t, me, allowed)
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if busybox, err := exec.LookPath("busybox"); err == nil {
		copyFile(t, busybox, filepath.Join(dir, "busybox"))
	}
	probe := " probe tcp=" + dest
	tests := []struct {
		name string
		argv []string
		want flow.Taint
	}{
		{"user namespace and bind mount", []string{"unshare", "-Urm", "sh", "-c", "mount --bind " + me + " " + allowed + " && exec " + allowed + probe}, flow.TaintForeignRoot},
		{"mount namespace alone", []string{"unshare", "-m", me, "probe", "tcp=" + dest}, flow.TaintForeignRoot},
		{"chroot", []string{"busybox", "chroot", dir, "/busybox", "nc", "203.0.113.7", "443"}, flow.TaintForeignRoot},
		{"chroot into a mount", []string{"sh", "-c", "mount --rbind / " + root + " && exec chroot " + root + " " + me + probe}, flow.TaintForeignRoot},
		{"memfd", []string{me, "probe", "memfd=tcp=" + dest}, flow.TaintDeleted | flow.TaintMemfd | flow.TaintNoPath},
		{"seccomp filter of its own", []string{me, "probe", "filtered=tcp=" + dest}, flow.TaintFiltered},
		{"seccomp filter two execs before", []string{me, "probe", "filtered=exec=" + me + ",x,tcp=" + dest}, flow.TaintFiltered},
		{"deleted", []string{me, "probe", "unlinked=" + deleted + ",tcp=" + dest}, flow.TaintDeleted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if path, err := exec.LookPath(tt.argv[0]); err != nil {
				t.Skip(err)
			} else {
				tt.argv[0] = path
			}
			f := newFixture(t, tt.argv...)
			f.start()
			e, _ := f.take(f.capture4)
			if taints(e) != tt.want {
				t.Errorf("taints = %v, want %v (path %q)", e.Taints.Names(), tt.want.Names(), e.Path)
			}
		})
	}
}
