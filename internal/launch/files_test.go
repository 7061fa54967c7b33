package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/testenv"
	"github.com/ringfence/ringfence/internal/tty"
)

// systemFiles are what programs need that are not the test's own.
func systemFiles() []string { return []string{"/usr", "/bin", "/lib", "/lib64", "/etc"} }

// withFiles restricts a sandbox to files.
func withFiles(readOnly, readWrite []string, change ...func(*Config)) func(*Config) {
	return func(c *Config) {
		c.User = rootfs.User{UID: testUID, GID: testUID}
		c.Files = &Files{ReadOnly: append(existing(systemFiles()), readOnly...), ReadWrite: readWrite}
		for _, f := range change {
			f(c)
		}
	}
}

func existing(paths []string) []string {
	return slices.DeleteFunc(paths, func(p string) bool {
		_, err := os.Stat(p)
		return err != nil
	})
}

// newWarnings returns what was told but for what this kernel lacks.
func newWarnings(t *testing.T, n *Namespaces) []string {
	t.Helper()
	abi, err := landlockABI()
	if err != nil {
		t.Fatal(err)
	}
	lacks := len(missingRights(abi))
	told := slices.DeleteFunc(slices.Clone(n.Warnings()), func(w string) bool { return strings.Contains(w, "the Landlock of this kernel is old") })
	if len(told)+lacks != len(n.Warnings()) {
		t.Errorf("warnings %q: this kernel lacks %d rights", n.Warnings(), lacks)
	}
	return told
}

// openTree makes a directory in which everyone may do everything.
func openTree(t *testing.T, entries ...string) string {
	t.Helper()
	needRoot(t)
	dir := probeDir(t)
	for _, entry := range entries {
		path := filepath.Join(dir, entry)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(entry, "/") {
			err = os.MkdirAll(path, 0o777)
		} else {
			err = os.WriteFile(path, []byte("#!/bin/sh\necho ran\n"), 0o777)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Chmod(path, 0o777))
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// fileTry is one thing to do with a file, and what came of it.
type fileTry struct {
	Do, Path, To string
	Got          syscall.Errno
}

func probeFiles(args []string) int {
	var all []fileTry
	if err := json.Unmarshal([]byte(args[0]), &all); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i := range all {
		_ = errors.As(all[i].try(), &all[i].Got)
	}
	_ = json.NewEncoder(os.Stdout).Encode(all)
	return 0
}

func (f *fileTry) try() error {
	open := func(flags int) error {
		fd, err := unix.Open(f.Path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0o600)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	switch f.Do {
	case "read":
		return open(unix.O_RDONLY)
	case "list":
		_, err := os.ReadDir(f.Path)
		return err
	case "write":
		return open(unix.O_WRONLY)
	case "create":
		return open(unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL)
	case "truncate":
		return unix.Truncate(f.Path, 0)
	case "mkdir":
		return unix.Mkdir(f.Path, 0o700)
	case "rename":
		return unix.Rename(f.Path, f.To)
	case "link":
		return unix.Link(f.Path, f.To)
	case "symlink":
		return unix.Symlink(f.To, f.Path)
	case "fifo":
		return unix.Mkfifo(f.Path, 0o600)
	case "unlink":
		return unix.Unlink(f.Path)
	case "rmdir":
		return unix.Rmdir(f.Path)
	case "bind":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Bind(fd, &unix.SockaddrUnix{Name: f.Path})
	case "connect":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrUnix{Name: f.Path})
	case "execute":
		process, err := os.StartProcess(f.Path, []string{f.Path}, &os.ProcAttr{})
		if err == nil {
			_, err = process.Wait()
		}
		return err
	case "terminal": // of the program's own: ioctl on what it opens
		fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		_, err = unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		return err
	}
	return unix.ENOSYS
}

// tryFiles does them in a sandbox, in their order.
func tryFiles(t *testing.T, n *Namespaces, probe string, all []fileTry) []fileTry {
	t.Helper()
	order, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	r := runIn(t, n, command(probe, "probe-files", string(order)))
	var got []fileTry
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatalf("probe: %v; %+v", err, r)
	}
	return got
}

// Everything here is allowed by mode and owner: what is refused, Landlock refuses.
func TestFilesAreRestricted(t *testing.T) {
	testenv.RequireLandlock(t, abiRefer)
	dir := openTree(t, "ro/file", "ro/dir/", "rw/file", "rw/a/f", "rw/b/", "no/file", "no/dir/")
	ro, rw, no := dir+"/ro", dir+"/rw", dir+"/no"
	n := start(t, visible(dir), withFiles([]string{ro, dir + "/probe"}, []string{rw}))
	if told := newWarnings(t, n); len(told) > 0 {
		t.Errorf("warnings: %q", told)
	}
	const ok, refused = syscall.Errno(0), unix.EACCES
	truncated := refused
	if abi, _ := landlockABI(); abi < abiTruncate { // Linux 6.1
		truncated = ok
		err := startFails(t, visible(dir), withFiles(nil, nil, func(c *Config) { c.LandlockRequired = true }))
		if !strings.Contains(err.Error(), "Linux 6.2") || !strings.Contains(err.Hint, "best_effort") {
			t.Errorf("required: %v, hint %q", err, err.Hint)
		}
	}
	tests := []fileTry{
		{"read", ro + "/file", "", ok}, {"list", ro, "", ok}, {"execute", ro + "/file", "", ok},
		{"write", ro + "/file", "", refused}, {"truncate", ro + "/file", "", truncated}, {"create", ro + "/new", "", refused},
		{"mkdir", ro + "/new", "", refused}, {"unlink", ro + "/file", "", refused}, {"rmdir", ro + "/dir", "", refused},
		{"symlink", ro + "/new", "x", refused}, {"fifo", ro + "/new", "", refused}, {"bind", ro + "/new", "", refused},

		{"read", no + "/file", "", refused}, {"list", no, "", refused}, {"execute", no + "/file", "", refused},
		{"write", no + "/file", "", refused}, {"truncate", no + "/file", "", truncated}, {"create", no + "/new", "", refused},
		{"mkdir", no + "/new", "", refused}, {"unlink", no + "/file", "", refused}, {"rmdir", no + "/dir", "", refused},
		{"list", "/", "", refused}, {"list", dir, "", refused}, {"list", "/sys", "", refused}, {"create", "/tmp/new", "", refused},
		{"read", rw + "/../no/file", "", refused}, {"read", "/proc/self/root" + no + "/file", "", refused},

		{"read", rw + "/file", "", ok}, {"execute", rw + "/file", "", ok}, {"write", rw + "/file", "", ok}, {"truncate", rw + "/file", "", ok},
		{"create", rw + "/new", "", ok}, {"mkdir", rw + "/d", "", ok}, {"rmdir", rw + "/d", "", ok}, {"symlink", rw + "/l", no + "/file", ok},
		{"read", rw + "/l", "", refused}, {"fifo", rw + "/p", "", ok}, {"bind", rw + "/s", "", ok}, {"unlink", rw + "/s", "", ok},
		{"rename", rw + "/a/f", rw + "/b/f", ok}, {"link", rw + "/b/f", rw + "/a/g", ok},
		{"rename", rw + "/new", ro + "/new", refused}, {"rename", no + "/file", rw + "/file2", refused}, {"link", no + "/file", rw + "/file2", unix.EXDEV},
		{"link", ro + "/file", rw + "/file2", unix.EXDEV}, // more could be done with it there

		{"write", "/dev/null", "", ok}, {"read", "/dev/urandom", "", ok}, {"create", "/dev/shm/x", "", ok}, {"unlink", "/dev/shm/x", "", ok},
		{"read", "/proc/self/status", "", ok}, {"list", "/proc", "", ok}, {"terminal", "", "", ok},
		{"read", "/etc/resolv.conf", "", ok}, {"list", "/etc", "", ok}, {"create", "/dev/new", "", refused},
	}
	got := tryFiles(t, n, dir+"/probe", tests)
	if diff := cmp.Diff(tests, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// The same holds of a second command, and of what a shell starts.
	if r := runIn(t, n, command("sh", "-c", "cat "+ro+"/file && sh -c 'cat "+no+"/file'")); r.status.Code == 0 || !strings.Contains(r.err, no) || strings.Contains(r.err, ro) {
		t.Errorf("by a shell: %+v", r)
	}
}

// Without Files nothing is restricted, and with none of them everything.
func TestFilesOfNoneAndNothing(t *testing.T) {
	testenv.RequireLandlock(t, abiRefer)
	dir := openTree(t, "a/file", "b/")
	n := start(t, visible(dir))
	want := []fileTry{{"write", dir + "/a/file", "", 0}, {"list", "/", "", 0}, {"rename", dir + "/a/file", dir + "/b/file", 0}, {"link", dir + "/b/file", dir + "/a/file", 0}}
	if diff := cmp.Diff(want, tryFiles(t, n, dir+"/probe", want)); diff != "" {
		t.Errorf("without Files (-want +got)\n%s", diff)
	}
	n = start(t, visible(dir), withFiles(nil, nil, func(c *Config) { c.Files = &Files{} }))
	_, err := tryIn(t, n, command("sh", "-c", "true"))
	var step *StepError
	if !errors.As(err, &step) || step.Code != ExitNotExec || !strings.Contains(step.Hint, "filesystem_policy") {
		t.Errorf("with no path: %v, %+v", err, step)
	}
}

// The name service files are the sandbox's own, and so are readable without /etc.
func TestOwnFilesNeedNoPolicy(t *testing.T) {
	testenv.RequireLandlock(t, abiRefer)
	n := start(t, withFiles(nil, nil, func(c *Config) {
		c.Files.ReadOnly = existing([]string{"/usr", "/bin", "/lib", "/lib64"})
	}))
	if r := runIn(t, n, command("sh", "-c", "cat /etc/resolv.conf /etc/hosts > /dev/null && ! cat /etc/passwd 2>/dev/null")); r.status.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// A terminal works, with job control, under a policy that says nothing of it.
func TestTerminalUnderFiles(t *testing.T) {
	testenv.RequireLandlock(t, abiIoctl)
	dir := openTree(t)
	n := start(t, visible(dir), withFiles([]string{dir}, nil))
	c := command("sh", "-c", "stty -a < /dev/tty > /dev/null && tty && stty rows 11 && stty size; "+dir+"/probe probe-pty")
	c.Terminal = [3]bool{true, true, true}
	p, err := n.Exec(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Terminal.Close()
	out := readAll(p.Terminal)
	if status, err := p.Wait(t.Context()); err != nil || status.Code != 0 || !strings.Contains(out, "11 ") || !strings.Contains(out, "pty") {
		t.Errorf("%+v, %v, %q", status, err, out)
	}
}

// probePTY makes a terminal of its own.
func probePTY([]string) int {
	master, slave, err := tty.Open()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("pty", master.Name(), slave.Name())
	return 0
}

// One path that is missing, or leads where its user says, is told, and the others
// stand; where all are required, nothing starts.
func TestPathsThatAreLeftOut(t *testing.T) {
	testenv.RequireLandlock(t, abiTruncate)
	dir := openTree(t, "rw/file", "victim/file", "mine/")
	mine := dir + "/mine/link"
	if err := errors.Join(os.Symlink(dir+"/victim", mine), os.Lchown(dir+"/mine", testUID, testUID)); err != nil {
		t.Fatal(err)
	}
	// The link of another's is as bad: it may have been moved there.
	if err := errors.Join(os.Lchown(mine, 0, 0), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		write      bool
		says       string
		is         error
	}{
		{"missing", dir + "/none", false, "no such file", unix.ENOENT},
		{"below a file", dir + "/rw/file/x", false, "not a directory", unix.ENOTDIR},
		{"below a file, written", dir + "/rw/file/x", true, "not a directory", unix.ENOTDIR},
		{"planted link", mine, false, "symbolic link", nil},
		{"planted link, written", mine, true, "symbolic link", nil},
		{"below a planted link", mine + "/new", true, "no such file", unix.ENOENT},
		{"process", "/proc/1/root", false, "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			readOnly, readWrite := []string{tt.path, dir + "/probe"}, []string{dir + "/rw"}
			if tt.write {
				readOnly, readWrite = []string{dir + "/probe"}, []string{tt.path, dir + "/rw"}
			}
			n := start(t, visible(dir), withFiles(readOnly, readWrite))
			told := strings.Join(n.Warnings(), "\n")
			if len(n.Warnings()) != 1 || !strings.Contains(told, tt.path) || !strings.Contains(told, tt.says) {
				t.Errorf("warnings: %q", told)
			}
			want := []fileTry{{"write", dir + "/rw/file", "", 0}, {"read", dir + "/victim/file", "", unix.EACCES}}
			if diff := cmp.Diff(want, tryFiles(t, n, dir+"/probe", want)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			err := startFails(t, visible(dir), withFiles(readOnly, readWrite, func(c *Config) { c.LandlockRequired = true }))
			if !strings.Contains(err.Error(), tt.path) || !strings.Contains(err.Hint, "best_effort") || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("required: %v, hint %q", err, err.Hint)
			}
		})
	}
	n := start(t, visible(dir), withFiles([]string{dir + "/probe"}, []string{dir + "/rw"}, func(c *Config) { c.LandlockRequired = true }))
	if r := runIn(t, n, command("true")); r.status.Code != 0 {
		t.Errorf("required and there: %+v", r)
	}
}

// Unix sockets of others are doors that a kernel of version 9 shuts, but for those
// beneath what may be written.
func TestUnixSocketsOfOthers(t *testing.T) {
	testenv.RequireLandlock(t, abiRefer)
	dir := openTree(t, "rw/", "ro/", "no/")
	for _, name := range []string{"rw", "ro", "no"} {
		l, err := net.Listen("unix", filepath.Join(dir, name, "door"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		if err := os.Chmod(filepath.Join(dir, name, "door"), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	n := start(t, visible(dir), withFiles([]string{dir + "/probe", dir + "/ro"}, []string{dir + "/rw"}))
	shut := syscall.Errno(0)
	if abi, _ := landlockABI(); abi >= abiResolveUnix {
		shut = unix.EACCES
	}
	want := []fileTry{{"connect", dir + "/rw/door", "", 0}, {"connect", dir + "/ro/door", "", shut}, {"connect", dir + "/no/door", "", shut}}
	if diff := cmp.Diff(want, tryFiles(t, n, dir+"/probe", want)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWorkdirIsOneMore(t *testing.T) {
	testenv.RequireLandlock(t, abiRefer)
	dir := openTree(t, "work/file", "other/file")
	for _, workdir := range []string{dir + "/work", "/"} {
		n := start(t, visible(dir), withFiles([]string{dir + "/probe"}, nil, func(c *Config) { c.Files.Workdir = workdir }))
		want := []fileTry{{"write", dir + "/work/file", "", 0}, {"write", dir + "/other/file", "", unix.EACCES}}
		if workdir == "/" {
			want[0].Got = unix.EACCES
			if told := newWarnings(t, n); len(told) != 1 || !strings.Contains(told[0], "everything would be writable") {
				t.Errorf("warnings %q", told)
			}
		}
		if diff := cmp.Diff(want, tryFiles(t, n, dir+"/probe", want)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", workdir, diff)
		}
	}
}

// What a path led to when the sandbox started stays what it means: no command can
// change that for the next one.
func TestPathsAreOpenedOnce(t *testing.T) {
	testenv.RequireLandlock(t, abiRefer)
	dir := openTree(t, "rw/sub/file", "victim/file")
	n := start(t, visible(dir), withFiles([]string{dir + "/probe"}, []string{dir + "/rw", dir + "/rw/sub"}))
	if r := runIn(t, n, command("sh", "-c", "mv "+dir+"/rw/sub "+dir+"/rw/old && ln -s "+dir+"/victim "+dir+"/rw/sub")); r.status.Code != 0 {
		t.Fatalf("%+v", r)
	}
	want := []fileTry{{"read", dir + "/rw/sub/file", "", unix.EACCES}, {"read", dir + "/rw/old/file", "", 0}}
	if diff := cmp.Diff(want, tryFiles(t, n, dir+"/probe", want)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWarningsAreBounded(t *testing.T) {
	dir := openTree(t)
	var many []string
	for i := range 256 {
		many = append(many, fmt.Sprintf("/none/%d%s", i, strings.Repeat("<", 250)))
	}
	n := start(t, visible(dir), withFiles(many, nil))
	told := n.Warnings()
	if len(told) < 10 || !strings.Contains(told[len(told)-1], "more warnings") {
		t.Errorf("%d warnings, the last %q", len(told), told[len(told)-1])
	}
}

// startFails starts namespaces that must not come to be.
func startFails(t *testing.T, change ...func(*Config)) *StepError {
	t.Helper()
	config := newConfig(t, change...)
	n, err := Start(t.Context(), config)
	if err == nil {
		_ = n.Close()
		t.Fatal("it started")
	}
	var step *StepError
	if !errors.As(err, &step) {
		t.Fatalf("%v is no StepError", err)
	}
	return step
}
