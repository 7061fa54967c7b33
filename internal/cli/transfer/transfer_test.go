package transfer

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

// start is a copy between this process and a server in it.
func start(t *testing.T, serve func(io.ReadWriteCloser)) (c *Copy, warnings *[]string) {
	t.Helper()
	fromClient, toServer := io.Pipe()
	fromServer, toClient := io.Pipe()
	go serve(struct {
		io.Reader
		io.WriteCloser
	}{fromClient, toClient})
	warnings = &[]string{}
	c, end, err := Start(fromServer, toServer, func(w string) { *warnings = append(*warnings, w) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { toClient.Close(); _ = end() })
	return c, warnings
}

// honest serves this host's files.
func honest(conn io.ReadWriteCloser) {
	if server, err := sftp.NewServer(conn); err == nil {
		_ = server.Serve()
	}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// tree shows all below a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprintf(&b, "%v %s", info.Mode(), rel)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		case info.Mode().Type() == fs.ModeSymlink:
			to, _ := os.Readlink(p)
			fmt.Fprintf(&b, " -> %s", to)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCopyTree(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, from+"/tree/a", "text", 0o640)
	write(t, from+"/tree/tool", "#!", 0o755)
	write(t, from+"/tree/setuid", "s", 0o755|fs.ModeSetuid)
	write(t, from+"/tree/sub/deep/b", strings.Repeat("x", 300_000), 0o600)
	if err := os.Chmod(from+"/tree/sub/deep", 0o750); err != nil {
		t.Fatal(err)
	}
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	if err := os.Chtimes(from+"/tree/a", old, old); err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(tree(t, from), "urwxr-xr-x", "-rwxr-xr-x")
	for name, copyTree := range map[string]func(*Copy) error{
		"up":   func(c *Copy) error { return c.Upload(from+"/tree", to+"/up") },
		"down": func(c *Copy) error { return c.Download(from+"/tree", to+"/down") },
	} {
		c, warnings := start(t, honest)
		if err := os.Mkdir(to+"/"+name, 0o755); err != nil { // there, so the copy goes into it
			t.Fatal(err)
		}
		if err := copyTree(c); err != nil || len(*warnings) > 0 {
			t.Errorf("%s: %v, %q", name, err, *warnings)
		}
		if got := tree(t, to+"/"+name); got != want {
			t.Errorf("%s:\n%.600s\nwant\n%.600s", name, got, want)
		}
		if info, err := os.Stat(to + "/" + name + "/tree/a"); err != nil || !info.ModTime().Equal(old) {
			t.Errorf("%s: time %v, %v", name, info.ModTime(), err)
		}
		if _, bytes := c.Done(); bytes != 300_000+4+2+1 {
			t.Errorf("%s: %d bytes are counted", name, bytes)
		}
		// Once more, over what is there.
		if err := copyTree(c); err != nil {
			t.Errorf("%s again: %v", name, err)
		}
		if got := tree(t, to+"/"+name); got != want {
			t.Errorf("%s again:\n%.300s", name, got)
		}
	}
}

func TestLinks(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, from+"/tree/a", "text", 0o644)
	if err := os.Symlink("/etc/passwd", from+"/tree/link"); err != nil {
		t.Fatal(err)
	}
	c, warnings := start(t, honest)
	if err := c.Upload(from+"/tree", to+"/up"); err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, to+"/up"), tree(t, from+"/tree"); got != want || len(*warnings) > 0 {
		t.Errorf("up:\n%s\n%q", got, *warnings)
	}
	if err := c.Upload(from+"/tree", to+"/up/.."); err != nil { // another place
		t.Error(err)
	}
	if err := c.Download(from+"/tree", to+"/down"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(to + "/down/link"); err == nil || len(*warnings) != 1 {
		t.Errorf("down: the link is there: %v, %q", err, *warnings)
	}
}

// entry is what a hostile server says of a file.
type entry struct {
	name string
	mode fs.FileMode
}

func (e entry) Name() string       { return e.name }
func (e entry) Size() int64        { return 4 }
func (e entry) Mode() fs.FileMode  { return e.mode }
func (e entry) ModTime() time.Time { return time.Unix(1e9, 0) }
func (e entry) IsDir() bool        { return e.mode.IsDir() }
func (e entry) Sys() any           { return nil }

// hostile serves directories with the entries of a map, by path, and the same text for
// every file.
type hostile map[string][]entry

func (h hostile) serve(conn io.ReadWriteCloser) {
	_ = sftp.NewRequestServer(conn, sftp.Handlers{FileGet: h, FileList: h}).Serve()
}

func (h hostile) Fileread(*sftp.Request) (io.ReaderAt, error) {
	return bytes.NewReader([]byte("evil")), nil
}

func (h hostile) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method == "Stat" {
		for _, e := range h[path.Dir(r.Filepath)] {
			if e.name == path.Base(r.Filepath) {
				return lister{e}, nil
			}
		}
		return lister{{path.Base(r.Filepath), fs.ModeDir | 0o755}}, nil
	}
	if all, ok := h["*"]; ok {
		return lister(all), nil
	}
	return lister(h[r.Filepath]), nil
}

type lister []entry

func (l lister) ListAt(into []fs.FileInfo, offset int64) (int, error) {
	n := 0
	for ; n < len(into) && int(offset)+n < len(l); n++ {
		into[n] = l[int(offset)+n]
	}
	if n < len(into) {
		return n, io.EOF
	}
	return n, nil
}

// Nothing that a server calls its files leads out of the target.
func TestHostileServer(t *testing.T) {
	regular := fs.FileMode(0o644)
	for name, files := range map[string]hostile{
		"parent":          {"/x": {{"../evil", regular}}},
		"parent dir":      {"/x": {{"..", fs.ModeDir | 0o755}}, "/": {{"evil", regular}}},
		"absolute":        {"/x": {{"/evil", regular}}},
		"deep":            {"/x": {{"a/../../evil", regular}}},
		"NUL":             {"/x": {{"a\x00b", regular}}},
		"without an end":  {"*": {{"d", fs.ModeDir | 0o755}}},
		"through a link":  {"/x": {{"outside", fs.ModeDir | 0o755}}, "/x/outside": {{"evil", regular}}},
		"file on a link":  {"/x": {{"outfile", regular}}},
		"file on a pipe":  {"/x": {{"pipe", regular}}},
		"file on dir":     {"/x": {{"dir", regular}}},
		"device and link": {"/x": {{"dev", fs.ModeDevice | 0o666}, {"link", fs.ModeSymlink | 0o777}, {"p", fs.ModeNamedPipe}}},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			target := filepath.Join(outside, "target")
			write(t, outside+"/other/file", "good", 0o644)
			for _, dir := range []string{target, target + "/dir"} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for link, to := range map[string]string{"outside": outside + "/other", "outfile": "../other/file"} {
				if err := os.Symlink(to, filepath.Join(target, link)); err != nil {
					t.Fatal(err)
				}
			}
			pipe(t, target+"/pipe")
			before := tree(t, outside+"/other")
			c, warnings := start(t, files.serve)
			err := c.Download("/x/.", target)
			switch name {
			case "device and link":
				if err != nil || len(*warnings) != 3 {
					t.Errorf("%v, %q", err, *warnings)
				}
			case "parent", "parent dir", "absolute", "deep":
				// pkg/sftp cuts such names to their last part, or leaves them out; that it went
				// nowhere else is seen below.
			default:
				if err == nil {
					t.Errorf("no error; %s", tree(t, outside))
				}
			}
			if after := tree(t, outside+"/other"); after != before {
				t.Errorf("outside:\n%s", after)
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 2 {
				t.Errorf("beside the target: %v, %v", entries, err)
			}
		})
	}
}

func TestIsName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "...": true, "a b": true, "-rf": true, "\xff": true,
		"": false, ".": false, "..": false, "/": false, "a/b": false, "/a": false, "a/": false, "a\x00": false,
	} {
		if isName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

// A file alone has the name that the person gave it, and not the server's.
func TestHostileFile(t *testing.T) {
	dir := t.TempDir()
	c, _ := start(t, hostile{"/": {{"f", 0o4777}}}.serve)
	if err := c.Download("/f", dir); err != nil {
		t.Fatal(err)
	}
	if err := c.Download("/f", dir+"/g"); err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, dir), "-rwxrwxrwx f \"evil\"\n-rwxrwxrwx g \"evil\"\n"; got != want {
		t.Errorf("%s", got)
	}
	var out bytes.Buffer
	if err := c.To(&out, "/f"); err != nil || out.String() != "evil" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := c.To(io.Discard, "/dir"); err == nil {
		t.Error("a directory is a file")
	}
}

func pipe(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
}
