package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// ownerOf returns "uid:gid mode" of a path, not following a link.
func ownerOf(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o7777)
}

func TestMakeDirectory(t *testing.T) {
	needRoot(t)
	defer unix.Umask(unix.Umask(0o077)) // the agent's own must not count
	const user = 4001
	base := t.TempDir()
	path := func(name string) string { return filepath.Join(base, name) }
	if err := errors.Join(
		os.MkdirAll(path("victim/inner"), 0o700), os.Mkdir(path("there"), 0o700), os.WriteFile(path("file"), nil, 0o600),
		os.Symlink("victim", path("link")), os.Symlink(path("victim/none"), path("dangling")),
		os.MkdirAll(path("mine"), 0o755), os.Chown(path("mine"), user, user), os.Symlink("../victim", path("mine/planted")),
	); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		made       bool
		err        error
		owners     map[string]string // afterwards
	}{
		{"deep", "a/b/c", true, nil, map[string]string{"a": "0:0 755", "a/b": "0:0 755", "a/b/c": "4001:4001 755"}},
		{"not clean", "d//./e/", true, nil, map[string]string{"d": "0:0 755", "d/e": "4001:4001 755"}},
		{"there", "there", false, nil, map[string]string{"there": "0:0 700"}},
		{"a file", "file", false, nil, map[string]string{"file": "0:0 600"}},
		{"below a file", "file/x", false, unix.ENOTDIR, nil},
		{"a link to a directory", "link", false, unix.ELOOP, map[string]string{"victim": "0:0 700"}},
		{"over a link", "link/inner", false, unix.ELOOP, map[string]string{"victim/inner": "0:0 700"}},
		{"new, over a link", "link/new", false, unix.ELOOP, map[string]string{"victim/new": "no such file or directory"}},
		{"new, over a planted link", "mine/planted/new", false, unix.ELOOP, map[string]string{"victim/new": "no such file or directory"}},
		{"a dangling link", "dangling", false, unix.ELOOP, map[string]string{"victim/none": "no such file or directory"}},
		{"in the user's directory", "mine/x/y", true, nil, map[string]string{"mine/x": "0:0 755", "mine/x/y": "4001:4001 755"}},
		{"too deep", "z" + strings.Repeat("/z", 80), false, unix.ENAMETOOLONG, map[string]string{"z": "no such file or directory"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			made, err := makeDirectory(base+"/"+tt.path, user, user)
			if made != tt.made || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("made %v, %v", made, err)
			}
			for name, want := range tt.owners {
				if got := ownerOf(t, path(name)); got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			}
		})
	}
}

// Where somebody exchanges what was just made, nothing is given away.
func TestNewDirectoryThatIsExchanged(t *testing.T) {
	needRoot(t)
	open := func(path string) int {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	full, foreign, empty := t.TempDir(), t.TempDir(), t.TempDir()
	if err := errors.Join(os.WriteFile(full+"/secret", nil, 0o600), os.Chown(foreign, 4001, 4001), os.Chmod(empty, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{full, foreign} {
		if err := ownNew(open(dir)); !errors.Is(err, errNotEmpty) {
			t.Errorf("%s is taken for a new one: %v", ownerOf(t, dir), err)
		}
	}
	if err := ownNew(open(empty)); err != nil || ownerOf(t, empty) != "0:0 755" {
		t.Errorf("an empty one: %v, %s", err, ownerOf(t, empty))
	}
}

// What is missing of the paths that may be written is made on the host, in view of
// the sandbox, and can be written in it.
func TestMissingDirectoriesAreMade(t *testing.T) {
	testenv.RequireLandlock(t, abiRefer)
	dir := openTree(t, "there/")
	if err := os.Chown(dir+"/there", 0, 0); err != nil {
		t.Fatal(err)
	}
	n := start(t, visible(dir), withFiles(nil, []string{dir + "/new/deep", dir + "/there", "/tmp/own", dir + "/none/x"}))
	if told := newWarnings(t, n); strings.Count(strings.Join(told, "\n"), "was missing, and was made") != 3 || len(told) != 3 {
		t.Errorf("warnings: %q", told)
	}
	r := runIn(t, n, command("sh", "-c", "echo x > "+dir+"/new/deep/file && echo x > /tmp/own/file && mv "+dir+"/new/deep/file "+dir+"/there/ && ! mkdir "+dir+"/new/other 2>/dev/null"))
	if r.status.Code != 0 {
		t.Errorf("%+v", r)
	}
	for name, want := range map[string]string{"new": "0:0 755", "new/deep": fmt.Sprintf("%d:%d 755", testUID, testUID), "there": "0:0 777"} {
		if got := ownerOf(t, dir+"/"+name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
