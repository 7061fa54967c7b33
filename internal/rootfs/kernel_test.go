package rootfs

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAgainstKernel walks random trees as the kernel does when it is told to stay
// in a root.
func TestAgainstKernel(t *testing.T) {
	const seed = 2
	random := rand.New(rand.NewPCG(seed, seed))
	ends := make(map[string]int)
	for range 60 {
		tree, paths := grow(t, random)
		for _, path := range paths {
			want, wantErr := tree.openInRoot(path)
			got, err := tree.root.Follow(path, nobody, nil)
			if got.Target != want || kind(err) != kind(wantErr) {
				t.Errorf("%s: %q, %v; the kernel: %q, %v", path, got.Target, err, want, wantErr)
			}
			ends[kind(err)]++
		}
	}
	t.Log(ends)
	for _, k := range []string{"", "missing", "loop", "no file", "no directory"} {
		if ends[k] < 20 {
			t.Errorf("%d ends of kind %q: this tests little", ends[k], k)
		}
	}
}

// grow makes a tree of few names, so that its links meet, and paths into it.
func grow(t *testing.T, random *rand.Rand) (*tree, []string) {
	name := func() string { return string(rune('a' + random.IntN(5))) }
	path := func(parts ...string) string {
		names := make([]string, 1+random.IntN(4))
		for i := range names {
			names[i] = name()
			if len(parts) > 0 && random.IntN(3) == 0 {
				names[i] = parts[random.IntN(len(parts))]
			}
		}
		return strings.Join(names, "/")
	}
	tree := plant(t)
	// The links that are there already lead anywhere: os.Root keeps what is made
	// within the tree. What finds no room is not made.
	root, err := os.OpenRoot(tree.dir)
	tree.must(err)
	defer root.Close()
	for range 30 {
		where := path()
		_ = root.MkdirAll(filepath.Dir(where), 0o755)
		switch random.IntN(4) {
		case 0:
			_ = root.Mkdir(where, 0o755)
		case 1:
			if file, err := root.OpenFile(where, os.O_CREATE|os.O_EXCL, 0o755); err == nil {
				file.Close()
			}
		default:
			text := path("..", "..", ".", "")
			if random.IntN(3) == 0 {
				text = "/" + text
			}
			_ = root.Symlink(text, where)
		}
	}
	paths := make([]string, 100)
	for i := range paths {
		paths[i] = "/" + path()
	}
	return tree, paths
}

// openInRoot returns where the kernel says that a path leads.
func (t *tree) openInRoot(path string) (string, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := -1, error(unix.EAGAIN)
	for err == unix.EAGAIN { // it met "..", and something was renamed on this machine
		fd, err = unix.Openat2(int(t.root.dir.Fd()), path, &how)
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	t.must(unix.Fstat(fd, &st))
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", ErrNotFile
	}
	full, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	t.must(err)
	inside, found := strings.CutPrefix(full, t.dir)
	if !found {
		t.tb.Fatalf("%s leads to %s, out of %s", path, full, t.dir)
	}
	return inside, nil
}

// FuzzFollow walks a tree with a link of any text as the kernel does.
func FuzzFollow(f *testing.F) {
	for _, seed := range [][2]string{
		{"a/b/f", "l"}, {"/a/g/f", "l"}, {"../../h", "a/../l"}, {"a//b/./", "l/f"}, {"l", "l"}, {"h/", "l"}, {"a/b\x00", "l"}, {"..", "l/l/l/h"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		tree := plant(t, "a/b/f", "a/g -> b", "h")
		// The kernel looks at all of a path before it takes the first step.
		if os.Symlink(text, tree.path("l")) != nil || len(path) > maxTarget/2 || strings.Contains(path, "\x00") {
			return
		}
		path = filepath.Clean("/" + path)
		want, wantErr := tree.openInRoot(path)
		got, err := tree.root.Follow(path, nobody, nil)
		if got.Target != want || kind(err) != kind(wantErr) && !errors.Is(err, ErrTooLong) {
			t.Errorf("%q with a link to %q: %q, %v; the kernel: %q, %v", path, text, got.Target, err, want, wantErr)
		}
	})
}

// kind is what an error says, in whichever words.
func kind(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return ""
	case errors.Is(err, fs.ErrNotExist):
		return "missing"
	case errors.Is(err, ErrLoop), errors.Is(err, unix.ELOOP):
		return "loop"
	case errors.Is(err, ErrNotFile):
		return "no file"
	case errors.Is(err, unix.ENOTDIR):
		return "no directory"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}
