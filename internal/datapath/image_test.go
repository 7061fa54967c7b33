package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/testenv"
)

const (
	imageUser  = 40001
	imageGroup = 40002
	otherGroup = 40003 // of which the user is a member
)

// imageTree is a place with a copy of the probe that its user cannot change.
type imageTree struct {
	t       *testing.T
	dir     string // above it nobody but root can write
	program string // dir/opt/bin/program
}

func newImageTree(t *testing.T) *imageTree {
	t.Helper()
	tree := &imageTree{t: t, dir: t.TempDir()}
	for d := tree.dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		must(os.Chmod(d, 0o755))
	}
	tree.program = filepath.Join(tree.dir, "opt/bin/program")
	copyFile(t, self(t), tree.program)
	must(os.Chmod(tree.program, 0o755))
	return tree
}

func (tree *imageTree) at(name string) string { return filepath.Join(tree.dir, name) }

// start runs a program in a sandbox of its own, as the user, and returns its exec.
func (tree *imageTree) start(env []string, argv ...string) flow.Exec {
	tree.t.Helper()
	dp, parent := loadDatapath(tree.t)
	f := newSandboxOf(tree.t, dp, parent, started{
		argv: argv, env: env,
		user: &rootfs.User{UID: imageUser, GID: imageGroup, Groups: []uint32{otherGroup}},
	})
	f.start()
	e, _ := f.take(f.capture4)
	return e
}

// aclFor is an ACL in the kernel's form that lets a user write, as far as the mask
// goes.
func aclFor(user uint32, mask uint16) []byte {
	data := binary.LittleEndian.AppendUint32(nil, 2)
	for _, entry := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, 0xffffffff}, {2, 7, user}, {4, 5, 0xffffffff}, {0x10, mask, 0xffffffff}, {0x20, 5, 0xffffffff}} {
		data = binary.LittleEndian.AppendUint16(data, entry.tag)
		data = binary.LittleEndian.AppendUint16(data, entry.perm)
		data = binary.LittleEndian.AppendUint32(data, entry.id)
	}
	return data
}

// The hook and internal/rootfs must agree on who can change what is at a path.
func TestWritable(t *testing.T) {
	tests := []struct {
		name string
		do   func(tree *imageTree) error
		want bool
	}{
		{"root's", func(*imageTree) error { return nil }, false},
		{"the user's file", func(tree *imageTree) error { return os.Chown(tree.program, imageUser, 0) }, true},
		{"the user's file, read-only", func(tree *imageTree) error {
			return unix.Fchmodat(unix.AT_FDCWD, tree.program, 0o555, 0)
		}, false},
		{"a file for everybody", func(tree *imageTree) error { return os.Chmod(tree.program, 0o757) }, true},
		{"a file for its group", func(tree *imageTree) error {
			return chmodOf(tree.program, 0o775, imageGroup)
		}, true},
		{"a file for a further group", func(tree *imageTree) error {
			return chmodOf(tree.program, 0o775, otherGroup)
		}, true},
		{"a file for another group", func(tree *imageTree) error {
			return chmodOf(tree.program, 0o775, 40009)
		}, false},
		{"the user's directory", func(tree *imageTree) error { return os.Chown(tree.at("opt/bin"), imageUser, 0) }, true},
		{"the user's directory far above", func(tree *imageTree) error { return os.Chown(tree.at("opt"), imageUser, 0) }, true},
		{"a directory for everybody", func(tree *imageTree) error { return os.Chmod(tree.at("opt"), 0o777) }, true},
		{"a directory for its group", func(tree *imageTree) error { return chmodOf(tree.at("opt"), 0o775, otherGroup) }, true},
		{"a sticky directory above one of root's", func(tree *imageTree) error {
			return os.Chmod(tree.at("opt"), 0o777|os.ModeSticky)
		}, false},
		{"a file in a sticky directory", func(tree *imageTree) error {
			return os.Chmod(tree.at("opt/bin"), 0o777|os.ModeSticky)
		}, true},
		{"a sticky directory of the user's", func(tree *imageTree) error {
			return errorsOf(os.Chown(tree.at("opt"), imageUser, 0), os.Chmod(tree.at("opt"), 0o777|os.ModeSticky))
		}, true},
		{"an ACL", func(tree *imageTree) error {
			return unix.Setxattr(tree.at("opt"), "system.posix_acl_access", aclFor(imageUser, 7), 0)
		}, true},
		{"an ACL under a mask", func(tree *imageTree) error {
			return unix.Setxattr(tree.at("opt"), "system.posix_acl_access", aclFor(imageUser, 5), 0)
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := newImageTree(t)
			if err := tt.do(tree); err != nil {
				t.Fatal(err)
			}
			e := tree.start(nil, tree.program, "probe", "tcp="+dest)
			if got := e.Taints.Has(flow.TaintWritable); got != tt.want {
				t.Errorf("writable is %v", got)
			}
			root, err := os.Open("/")
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			link, err := rootfs.New(root).Follow(tree.program, rootfs.User{UID: imageUser, GID: imageGroup, Groups: []uint32{otherGroup}}, nil)
			if err != nil || link.Writable != tt.want {
				t.Errorf("rootfs says %v, %v", link.Writable, err)
			}
		})
	}
}

// A mount may show other owners than the hook sees: then everybody may be one.
func TestIDMappedMount(t *testing.T) {
	tree := newImageTree(t)
	if err := mapOwners(tree.at("opt"), tree.at("mapped")); err != nil {
		testenv.SkipOn(t, &testenv.Skip{Reason: "idmapped mounts are not to be had here: " + err.Error()})
	}
	t.Cleanup(func() { _ = unix.Unmount(tree.at("mapped"), unix.MNT_DETACH) })
	if e := tree.start(nil, tree.at("mapped/bin/program"), "probe", "tcp="+dest); !e.Taints.Has(flow.TaintWritable) {
		t.Errorf("taints %v", e.Taints.Names())
	}
	if e := tree.start(nil, tree.program, "probe", "tcp="+dest); e.Taints != 0 {
		t.Errorf("beside it: taints %v", e.Taints.Names())
	}
}

// mapOwners mounts a directory at another with its users shifted.
func mapOwners(from, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	holder := exec.Command("/proc/self/exe", "hold")
	holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 100_000}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 100_000}},
	}
	hold, err := holder.StdinPipe()
	if err != nil {
		return err
	}
	defer hold.Close()
	if err := holder.Start(); err != nil {
		return err
	}
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func chmodOf(path string, mode os.FileMode, group int) error {
	return errorsOf(os.Chown(path, 0, group), os.Chmod(path, mode))
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestPreload(t *testing.T) {
	many := make([]string, 0, 20000)
	for i := range cap(many) {
		many = append(many, fmt.Sprintf("V%d=x", i))
	}
	tests := []struct {
		name string
		env  []string
		want []string
	}{
		{"none", []string{"PATH=/bin", "LD_PRELOADED=x", "XLD_PRELOAD=x", "LD_PRELOA=x", "=LD_PRELOAD"}, nil},
		{"empty", []string{"LD_PRELOAD="}, nil},
		{"a value that looks like one", []string{"A=LD_PRELOAD=x"}, nil},
		{"one", []string{"LD_PRELOAD=/tmp/x.so"}, []string{"LD_PRELOAD"}},
		{"two", []string{"A=b", "NODE_OPTIONS=--require x", "C=d", "_JAVA_OPTIONS=-x"}, []string{"NODE_OPTIONS", "_JAVA_OPTIONS"}},
		{"after a value of many pages", []string{"A=" + strings.Repeat("x", 100_000), "BASH_ENV=/tmp/x"}, []string{"BASH_ENV"}},
		{"after a value of one buffer", []string{"A=" + strings.Repeat("x", 4093), "BASH_ENV=/tmp/x"}, []string{"BASH_ENV"}},
		{"after an empty string", []string{"", "BASH_ENV=/tmp/x"}, []string{"BASH_ENV"}},
		{"after many others", append(slices.Clone(many[:10_000]), "LD_AUDIT=x"), []string{"LD_AUDIT"}},
		{"more than are looked at", many, flow.VariablesUnread.Names()},
	}
	for _, name := range flow.PreloadVariables() {
		tests = append(tests, struct {
			name string
			env  []string
			want []string
		}{name, []string{name + "=x"}, []string{name}})
	}
	dp, parent := loadDatapath(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newSandboxOf(t, dp, parent, started{argv: []string{self(t), "probe", "tcp=" + dest}, env: tt.env})
			f.start()
			e, _ := f.take(f.capture4)
			got := e.Preload.Names()
			if !slices.Equal(got, tt.want) || e.Taints.Has(flow.TaintPreload) != (got != nil) {
				t.Errorf("%v, taints %v; want %v", got, e.Taints.Names(), tt.want)
			}
			if unread := e.Preload&flow.VariablesUnread != 0; !unread && flow.PreloadIn(tt.env) != e.Preload {
				t.Errorf("flow says %v", flow.PreloadIn(tt.env).Names())
			}
			f.drop(e)
		})
	}
}

func TestNotedTaints(t *testing.T) {
	tree := newImageTree(t)
	run := []string{tree.program, "probe", "tcp=" + dest}
	if e := tree.start(nil, run...); e.Taints != 0 || e.Script != "" {
		t.Errorf("taints %v, script %q", e.Taints.Names(), e.Script)
	}
	// The interpreter runs the script, which it is given as an argument: a probe does
	// not read it, so that its name can be the step.
	t.Chdir(tree.dir)
	must(os.WriteFile("tcp="+dest, []byte("#!"+tree.program+" probe\n"), 0o755))
	if e := tree.start(nil, "tcp="+dest); e.Taints != flow.TaintScript || e.Script != "tcp="+dest || e.Path != tree.program {
		t.Errorf("taints %v, script %q, path %q", e.Taints.Names(), e.Script, e.Path)
	}
	must(os.Chmod(tree.program, 0o755|os.ModeSetuid))
	if e := tree.start(nil, run...); e.Taints != flow.TaintSetuid {
		t.Errorf("taints %v", e.Taints.Names())
	}
	loader := tree.at("opt/bin/ld-linux-x86-64.so.2")
	must(os.Rename(tree.program, loader))
	must(os.Chmod(loader, 0o755))
	if e := tree.start(nil, loader, "probe", "tcp="+dest); e.Taints != flow.TaintLoader {
		t.Errorf("taints %v", e.Taints.Names())
	}
}

// What the program says of an open file is what the hook said of the image.
func TestIdentifyFile(t *testing.T) {
	f := newFixture(t, self(t), "probe", "tcp="+dest)
	f.start()
	e, _ := f.take(f.capture4)
	file, err := os.Open(self(t))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got, err := f.dp.IdentifyFile(file)
	if err != nil || got != e.File {
		t.Errorf("%+v, %v; want %+v", got, err, e.File)
	}
	other, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err = f.dp.IdentifyFile(other); err != nil || got == e.File || got.Size != 0 {
		t.Errorf("another file: %+v, %v", got, err)
	}
	other.Close()
	if got, err = f.dp.IdentifyFile(other); err == nil {
		t.Errorf("a closed file: %+v", got)
	}
}

// The program announces every exec that has a record.
func TestExecs(t *testing.T) {
	f := newFixture(t, "/bin/sh", "-c", self(t)+" probe tcp="+dest)
	seen := make(chan flow.ExecID, 16)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		defer close(seen)
		_ = f.dp.Execs(ctx, func(cgroup uint64, id flow.ExecID) {
			if cgroup == f.cgroupID {
				seen <- id
			}
		})
	}()
	f.start()
	e, _ := f.take(f.capture4)
	for id := range seen {
		if id == e.Exec {
			return
		}
	}
	t.Error("the exec was not announced")
}
