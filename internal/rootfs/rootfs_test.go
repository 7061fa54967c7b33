package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
	"github.com/ringfence/ringfence/internal/watch"
)

// tree is a root directory for a test, all of it root's and closed to others.
type tree struct {
	tb   testing.TB
	dir  string
	root *Root
}

// plant makes a tree of entries: "dir/", "file", "link -> text".
func plant(tb testing.TB, entries ...string) *tree {
	tb.Helper()
	if os.Getuid() != 0 {
		testenv.SkipOn(tb, &testenv.Skip{Reason: "needs root, for files of several owners"})
	}
	t := &tree{tb: tb, dir: filepath.Join(tb.TempDir(), "root")}
	t.must(os.Mkdir(t.dir, 0o755))
	for _, entry := range entries {
		t.add(entry)
	}
	dir, err := os.OpenFile(t.dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	t.must(err)
	tb.Cleanup(func() { dir.Close() })
	t.root = New(dir)
	return t
}

func (t *tree) must(err error) {
	t.tb.Helper()
	if err != nil {
		t.tb.Fatal(err)
	}
}

func (t *tree) path(name string) string { return filepath.Join(t.dir, name) }

func (t *tree) add(entry string) {
	t.tb.Helper()
	name, text, link := strings.Cut(entry, " -> ")
	t.must(os.MkdirAll(filepath.Dir(t.path(name)), 0o755))
	switch {
	case link:
		t.must(os.Symlink(text, t.path(name)))
	case strings.HasSuffix(name, "/"):
		t.must(os.MkdirAll(t.path(name), 0o755))
	default:
		t.must(os.WriteFile(t.path(name), nil, 0o755))
	}
}

// own sets owner, group and mode of an entry, of a link too.
func (t *tree) own(name string, uid, gid int, mode os.FileMode) {
	t.tb.Helper()
	t.must(os.Lchown(t.path(name), uid, gid))
	if info, err := os.Lstat(t.path(name)); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.must(errors.Join(err, os.Chmod(t.path(name), mode)))
	}
}

var nobody = User{UID: 4001, GID: 4001, Groups: []uint32{4002}}

func chain(n int) []string {
	entries := []string{"bin/file"}
	for i := range n {
		to := "file"
		if i > 0 {
			to = "l" + strconv.Itoa(i)
		}
		entries = append(entries, fmt.Sprintf("bin/l%d -> %s", i+1, to))
	}
	return entries
}

func TestFollow(t *testing.T) {
	deep := strings.Repeat("d/", maxLookups)
	tests := []struct {
		name    string
		entries []string
		path    string
		want    string // the target; empty for an error
		hops    int
		err     error
	}{
		{"file", []string{"bin/python"}, "/bin/python", "/bin/python", 0, nil},
		{"relative", []string{"bin/python3.12", "bin/python -> python3.12"}, "/bin/python", "/bin/python3.12", 1, nil},
		{"absolute", []string{"opt/py", "bin/python -> /opt/py"}, "/bin/python", "/opt/py", 1, nil},
		{"up", []string{"opt/py", "usr/bin/python -> ../../opt/py"}, "/usr/bin/python", "/opt/py", 1, nil},
		{"up from the root", []string{"opt/py", "bin/python -> ../../../../opt/py"}, "/bin/python", "/opt/py", 1, nil},
		{"absolute, up", []string{"opt/py", "bin/python -> /../../opt/./py"}, "/bin/python", "/opt/py", 1, nil},
		{"out of the root", []string{"bin/python -> ../../outside"}, "/bin/python", "", 0, fs.ErrNotExist},
		{"directory link", []string{"usr/bin/sh", "bin -> usr/bin"}, "/bin/sh", "/usr/bin/sh", 1, nil},
		{"directory links", []string{"usr/bin/dash", "usr/bin/sh -> /bin/dash", "bin -> usr/bin"}, "/bin/sh", "/usr/bin/dash", 3, nil},
		{"up from a directory link", []string{"a/b/c/", "a/b/f", "f", "l -> a/b/c", "m -> l/../f"}, "/m", "/a/b/f", 2, nil},
		{"slashes", []string{"a/f", "l -> .//a///./f"}, "/l", "/a/f", 1, nil},
		{"40 hops", chain(40), "/bin/l40", "/bin/file", 40, nil},
		{"41 hops", chain(41), "/bin/l41", "", 0, ErrLoop},
		{"own loop", []string{"a -> a"}, "/a", "", 0, ErrLoop},
		{"loop", []string{"a -> b", "b -> /a"}, "/a", "", 0, ErrLoop},
		{"loop in the middle", []string{"a -> a/b"}, "/a/b", "", 0, ErrLoop},
		{"missing", nil, "/a", "", 0, fs.ErrNotExist},
		{"missing directory", nil, "/a/b", "", 0, fs.ErrNotExist},
		{"dangling", []string{"a -> b"}, "/a", "", 0, fs.ErrNotExist},
		{"directory", []string{"a/"}, "/a", "", 0, ErrNotFile},
		{"link to a directory", []string{"a/", "b -> a"}, "/b", "", 0, ErrNotFile},
		{"link to here", []string{"b -> ."}, "/b", "", 0, ErrNotFile},
		{"the root", nil, "/", "", 0, ErrNotFile},
		{"file as directory", []string{"a"}, "/a/b", "", 0, unix.ENOTDIR},
		{"link with slash to a file", []string{"a", "b -> a/"}, "/b", "", 0, unix.ENOTDIR},
		{"link with dot to a file", []string{"a", "b -> a/."}, "/b", "", 0, unix.ENOTDIR},
		{"slash behind a link", []string{"a", "b -> a", "c -> b/"}, "/c", "", 0, unix.ENOTDIR},
		{"deep", []string{deep + "f"}, "/" + deep + "f", "", 0, ErrTooLong},
		{"deep enough", []string{deep[2:] + "f"}, "/" + deep[2:] + "f", "/" + deep[2:] + "f", 0, nil},
		{"relative path", []string{"a"}, "a", "", 0, ErrPath},
		{"empty path", nil, "", "", 0, ErrPath},
		{"unclean path", []string{"a"}, "/b/../a", "", 0, ErrPath},
		{"final slash", []string{"a/"}, "/a/", "", 0, ErrPath},
		{"zero byte", []string{"a"}, "/a\x00b", "", 0, unix.EINVAL},
		{"long name", nil, "/" + strings.Repeat("x", 256), "", 0, unix.ENAMETOOLONG},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree := plant(t, test.entries...)
			tree.must(os.WriteFile(tree.dir+"/../outside", nil, 0o755))
			got, err := tree.root.Follow(test.path, nobody, nil)
			if !errors.Is(err, test.err) {
				t.Errorf("error %v, want %v", err, test.err)
			}
			if diff := cmp.Diff(Link{Target: test.want, Hops: test.hops}, got); diff != "" {
				t.Errorf("link (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFollowSpecialFiles(t *testing.T) {
	tree := plant(t, "fifo -> pipe", "null -> null0")
	tree.must(unix.Mkfifo(tree.path("pipe"), 0o666))
	tree.must(unix.Mknod(tree.path("null0"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	for _, path := range []string{"/fifo", "/pipe", "/null", "/null0"} {
		if got, err := tree.root.Follow(path, nobody, nil); !errors.Is(err, ErrNotFile) {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
}

func TestFollowRefusesProc(t *testing.T) {
	host, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/proc/self/exe", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/proc/self/exe", "/proc/thread-self/root/bin/sh", "/proc/self/status", "/proc/nothing", link} {
		if got, err := New(host).Follow(path, nobody, nil); !errors.Is(err, ErrProc) {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	if _, err := New(host).Follow("/bin/sh", nobody, nil); err != nil {
		t.Errorf("a descriptor for reading: %v", err)
	}
}

func TestRootIsClosed(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir.Close()
	if _, err := New(dir).Follow("/a", nobody, nil); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := New(file).Follow("/a", nobody, nil); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("error %v", err)
	}
}

// The way crosses mounts, down and, by "..", up.
func TestFollowCrossesMounts(t *testing.T) {
	tree := plant(t, "m/", "m/hidden", "f", "l -> m/up")
	done := make(chan struct{})
	go func() { // on a thread that ends with its mount namespace
		defer close(done)
		runtime.LockOSThread()
		if err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", tree.path("m"), "tmpfs", 0, "mode=0755"),
			os.WriteFile(tree.path("m/new"), nil, 0o755),
			os.Symlink("../f", tree.path("m/up")),
		); err != nil {
			t.Error(err)
			return
		}
		dir, err := os.Open(tree.dir) // a descriptor of this namespace
		if err != nil {
			t.Error(err)
			return
		}
		defer dir.Close()
		for path, want := range map[string]string{"/m/new": "/m/new", "/m/up": "/f", "/l": "/f", "/m/hidden": ""} {
			if got, err := New(dir).Follow(path, nobody, nil); got.Target != want || got.Writable || (err == nil) != (want != "") {
				t.Errorf("%s: %+v, %v", path, got, err)
			}
		}
	}()
	<-done
}

// visits returns the paths of the directories that walk visits, as seen in the
// tree.
func (t *tree) visits(walk func(visit func(int)) error) ([]string, error) {
	var dirs []string
	err := walk(func(fd int) {
		path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		t.must(err)
		dirs = append(dirs, strings.TrimPrefix(path, t.dir)+"/")
	})
	return dirs, err
}

func TestVisits(t *testing.T) {
	tree := plant(t, "usr/bin/py3", "bin -> usr/bin", "usr/bin/py -> /opt/cur/py", "opt/cur -> v1", "opt/v1/py -> ../../usr/bin/py3",
		"gone -> /usr/lib/gone", "loop -> loop", "fd -> /proc/self/fd/0")
	tree.must(unix.Mkfifo(tree.path("usr/pipe"), 0o666))
	for _, test := range []struct {
		path   string
		follow []string
		visit  []string // as well, by Visit
	}{
		{"/bin/py", []string{"/", "/", "/usr/", "/usr/bin/", "/", "/opt/", "/opt/", "/opt/v1/", "/", "/usr/", "/usr/bin/"}, nil},
		{"/gone", []string{"/", "/", "/usr/"}, nil},
		{"/usr/gone/more", []string{"/", "/usr/"}, nil},
		{"/usr/pipe", []string{"/", "/usr/"}, nil},
		{"/usr/bin/py3/x", []string{"/", "/usr/", "/usr/bin/"}, nil},
		{"/bin", []string{"/", "/", "/usr/"}, []string{"/usr/bin/"}},
		{"/opt/cur", []string{"/", "/opt/", "/opt/"}, []string{"/opt/v1/"}},
		{"/", nil, []string{"/"}},
	} {
		got, _ := tree.visits(func(visit func(int)) error {
			_, err := tree.root.Follow(test.path, nobody, visit)
			return err
		})
		if diff := cmp.Diff(test.follow, got); diff != "" {
			t.Errorf("Follow(%s) visits (-want +got):\n%s", test.path, diff)
		}
		got, err := tree.visits(func(visit func(int)) error { return tree.root.Visit(test.path, visit) })
		if diff := cmp.Diff(append(test.follow, test.visit...), got); diff != "" || err != nil {
			t.Errorf("Visit(%s): %v, visits (-want +got):\n%s", test.path, err, diff)
		}
	}
	got, err := tree.visits(func(visit func(int)) error { return tree.root.Visit("/usr/bin/../..//opt/.", visit) })
	if diff := cmp.Diff([]string{"/", "/usr/", "/", "/opt/"}, got); diff != "" || err != nil {
		t.Errorf("unclean: %v, visits (-want +got):\n%s", err, diff)
	}
	if dirs, err := tree.visits(func(visit func(int)) error { return tree.root.Visit("/loop", visit) }); len(dirs) != maxLinks+1 || err != nil {
		t.Errorf("loop: %d visits, %v", len(dirs), err)
	}
	deep := strings.Repeat("/d", maxLookups+1)
	tree.add(deep[1:] + "/f")
	for _, path := range []string{deep, "relative"} {
		if err := tree.root.Visit(path, func(int) {}); err == nil {
			t.Errorf("%.20s: no error", path)
		}
	}
}

// A watch that is set by visit sees what comes into being after the walk.
func TestWatchedByVisit(t *testing.T) {
	tree := plant(t, "bin/", "opt/v1/py", "opt/v2/py", "opt/cur -> v1")
	swap := func(name, text string) {
		tree.must(errors.Join(os.Symlink(text, tree.path("new")), os.Rename(tree.path("new"), tree.path(name))))
	}
	for _, step := range []struct {
		name   string
		change func()
		want   Link
	}{
		{"nothing yet", func() {}, Link{}},
		{"the link appears", func() { tree.add("bin/py -> /opt/cur/py") }, Link{Target: "/opt/v1/py", Hops: 2}},
		{"a link on the way turns", func() { swap("opt/cur", "v2") }, Link{Target: "/opt/v2/py", Hops: 2}},
		{"the target is given away", func() { tree.own("opt/v2/py", 4001, 0, 0o755) }, Link{Target: "/opt/v2/py", Hops: 2, Writable: true}},
		{"and taken back", func() { tree.own("opt/v2/py", 0, 0, 0o755) }, Link{Target: "/opt/v2/py", Hops: 2}},
		{"a directory is opened", func() { tree.own("opt", 0, 0, 0o777) }, Link{Target: "/opt/v2/py", Hops: 2, Writable: true}},
		{"a directory is replaced", func() {
			tree.must(os.Rename(tree.path("opt"), tree.path("old")))
		}, Link{}},
		{"and is there again", func() { tree.add("opt/cur/py") }, Link{Target: "/opt/cur/py", Hops: 1}},
	} {
		// What came before this step is not told again: each round has its watcher.
		w, err := watch.New()
		tree.must(err)
		follow := func() Link {
			link, err := tree.root.Follow("/bin/py", nobody, func(dir int) { tree.must(w.Add("/proc/self/fd/" + strconv.Itoa(dir))) })
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return link
		}
		before := follow()
		step.change()
		after := follow()
		if diff := cmp.Diff(step.want, after); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if before != after {
			if err := w.Wait(ctx, time.Millisecond); err != nil {
				t.Errorf("%s: wait: %v", step.name, err)
			}
		}
		cancel()
		w.Close()
	}
}

func TestNothingIsLeft(t *testing.T) {
	tree := plant(t, append(chain(41), "a/b/c/f", "d -> a/b/../b/c/f", "gone -> a/b/c/gone")...)
	testenv.CheckLeaks(t, "rf-rootfs-test")
	for range 20 {
		for _, path := range []string{"/bin/l40", "/bin/l41", "/a/b/c/f", "/d", "/gone", "/a/b", "/", "x"} {
			_, _ = tree.root.Follow(path, nobody, nil)
			_ = tree.root.Visit(path, func(int) {})
		}
	}
}

// TestHold: whatever a path leads to is held, and a link is told that the user
// could have put there; what the user may write counts only above a link.
func TestHold(t *testing.T) {
	tree := plant(t, "a/b/f", "usr/lib/", "lib -> usr/lib", "home/d/", "home/mine -> ../a", "to -> home/mine/b", "home/loop -> loop")
	tree.own("home", int(nobody.UID), int(nobody.GID), 0o755)
	tree.own("home/d", int(nobody.UID), int(nobody.GID), 0o755)
	tree.must(os.Symlink("home", tree.path("house")))
	tree.must(unix.Mkfifo(tree.path("pipe"), 0o666))
	tree.must(os.Symlink("pipe", tree.path("tube")))
	tests := []struct {
		path, want string
		planted    bool
		err        string
	}{
		{"/a/b/f", "/a/b/f", false, ""},
		{"/a//b/", "/a/b", false, ""},
		{"/lib", "/usr/lib", false, ""},
		{"/home/d", "/home/d", false, ""},
		{"/house/d", "/home/d", false, ""},
		{"/tube", "/pipe", false, ""},
		{"/home/mine", "/a", true, ""},
		{"/home/mine/b/f", "/a/b/f", true, ""},
		{"/house/mine", "/a", true, ""},
		{"/to", "/a/b", true, ""},
		{"/tube/x", "", false, "no directory"},
		{"/a/none", "", false, "missing"},
		{"/home/loop", "", false, "loop"},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			fd, planted, err := tree.root.Hold(tt.path, nobody)
			if kind(err) != tt.err || planted != tt.planted {
				t.Fatalf("planted %v, %v", planted, err)
			}
			if err != nil {
				return
			}
			defer unix.Close(fd)
			got, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
			if err != nil || got != tree.path(tt.want) {
				t.Errorf("holds %s, %v", got, err)
			}
		})
	}
}
