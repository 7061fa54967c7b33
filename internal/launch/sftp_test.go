package launch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/testenv"
)

// sftpSession is a client of BuiltinSFTP, over the pipes as an SSH channel would be.
type sftpSession struct {
	*sftp.Client
	process *Process
	pipes   *Pipes

	mu   sync.Mutex
	told []Transfer
}

func startSFTP(t testing.TB, n *Namespaces, dir string) *sftpSession {
	t.Helper()
	pipes, err := PipeStdio()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pipes.Close)
	s := &sftpSession{pipes: pipes}
	s.process, err = n.Exec(t.Context(), Command{
		Builtin: BuiltinSFTP, Dir: dir, UID: testUID, GID: testUID, Stdio: pipes.Stdio,
		OnTransfer: func(told Transfer) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.told = append(s.told, told)
		},
	})
	pipes.Started()
	if err != nil {
		t.Fatal(err)
	}
	if s.Client, err = sftp.NewClientPipe(pipes.Stdout, pipes.Stdin); err != nil {
		t.Fatal(err)
	}
	return s
}

// end closes the session as a client does, and returns what it told.
func (s *sftpSession) end(t testing.TB) []Transfer {
	t.Helper()
	if err := s.pipes.Stdin.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	if status, err := s.process.Wait(ctx); err != nil || status.ExitCode() != 0 {
		t.Errorf("status %+v, %v", status, err)
	}
	return s.told
}

// ownedDir is a directory of the test's user that is to be made visible.
func ownedDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rf-launch-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, testUID, testUID)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// Files go in and out byte for byte, belong to the user, and each is told.
func TestSFTPMovesFiles(t *testing.T) {
	dir := ownedDir(t)
	s := startSFTP(t, start(t, visible(dir)), dir)
	content := randomBytes(48<<20 + 7)
	up, err := s.Create(dir + "/large \xff\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.ReadFrom(bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	onHost, err := os.ReadFile(dir + "/large \xff\n")
	if err != nil || sha256.Sum256(onHost) != sha256.Sum256(content) {
		t.Errorf("%d bytes came in, %v", len(onHost), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir+"/large \xff\n", &st); err != nil || st.Uid != testUID || st.Mode&0o777 != 0o644 {
		t.Errorf("it is user %d's, mode %o, %v", st.Uid, st.Mode, err)
	}
	down, err := s.Open("large \xff\n") // from the start directory
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if n, err := down.WriteTo(sum); err != nil || n != int64(len(content)) || [32]byte(sum.Sum(nil)) != sha256.Sum256(content) {
		t.Errorf("%d bytes came out, %v", n, err)
	}
	if err := down.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Create(dir + "/left open"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(dir + "/no such"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	want := []Transfer{
		{Op: TransferWrite, Path: dir + "/large \xff\n", Bytes: uint64(len(content))},
		{Op: TransferRead, Path: dir + "/large \xff\n", Bytes: uint64(len(content))},
		{Op: TransferWrite, Path: dir + "/left open", Cut: true},
	}
	if diff := cmp.Diff(want, s.end(t)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What the user may do, its client may do; and nothing more.
func TestSFTPIsTheUser(t *testing.T) {
	dir := ownedDir(t)
	host := filepath.Join(t.TempDir(), "hosts own") // below the host's /tmp, which is masked
	closed := filepath.Join(dir, "closed")
	if err := errors.Join(os.WriteFile(host, []byte("x"), 0o644), os.WriteFile(closed, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s := startSFTP(t, start(t, visible(dir)), dir)
	defer s.end(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, try := range []struct {
		name string
		do   func() error
	}{
		{"mkdir", func() error { return s.Mkdir(in("made")) }},
		{"write", func() error { return writeOver(s, in("made/file"), "text") }},
		{"chmod", func() error { return s.Chmod(in("made/file"), 0o640) }},
		{"rename", func() error { return s.PosixRename(in("made/file"), in("file")) }},
		{"symlink", func() error { return s.Symlink(host, in("out")) }},
		{"rmdir", func() error { return s.RemoveDirectory(in("made")) }},
	} {
		if err := try.do(); err != nil {
			t.Errorf("%s: %v", try.name, err)
		}
	}
	if here, err := s.Getwd(); err != nil || here != dir {
		t.Errorf("it starts in %q, %v", here, err)
	}
	// A link that leads out leads nowhere, as for every program inside.
	if _, err := s.Open(in("out")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("through a link: %v", err)
	}
	if _, err := s.Open(dir + "/../" + strings.TrimPrefix(host, "/tmp/")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("by dots: %v", err)
	}
	if _, err := s.Open(closed); !errors.Is(err, os.ErrPermission) {
		t.Errorf("another user's file: %v", err)
	}
	if err := s.Chown(in("file"), 0, 0); !errors.Is(err, os.ErrPermission) {
		t.Errorf("chown: %v", err)
	}
}

func writeOver(s *sftpSession, path, text string) error {
	f, err := s.Create(path)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Close())
}

// The policy's files, and no more: by Landlock, which the server does not know of.
func TestSFTPIsFenced(t *testing.T) {
	testenv.RequireLandlock(t, abiTruncate)
	dir, other := ownedDir(t), ownedDir(t)
	for _, d := range []string{dir, other} {
		if err := os.WriteFile(d+"/there", []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n := start(t, visible(dir, other), func(c *Config) {
		c.User, c.LandlockRequired = rootfs.User{UID: testUID, GID: testUID}, true
		c.Files = &Files{ReadOnly: []string{"/usr", "/lib", "/lib64"}, ReadWrite: []string{dir}}
	})
	s := startSFTP(t, n, dir)
	defer s.end(t)
	if err := writeOver(s, dir+"/new", "x"); err != nil {
		t.Errorf("a file of the policy: %v", err)
	}
	for _, path := range []string{other + "/there", "/etc/passwd"} {
		if _, err := s.Open(path); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := writeOver(s, other+"/new", "x"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("write: %v", err)
	}
	if _, err := s.ReadDir(other); !errors.Is(err, os.ErrPermission) {
		t.Errorf("list: %v", err)
	}
}

// BenchmarkSFTP moves a file in and out, without the SSH around it.
func BenchmarkSFTP(b *testing.B) {
	dir := ownedDir(b)
	s := startSFTP(b, start(b, visible(dir)), dir)
	defer s.end(b)
	content := randomBytes(64 << 20)
	b.Run("upload", func(b *testing.B) {
		b.SetBytes(int64(len(content)))
		for b.Loop() {
			f, err := s.Create(dir + "/file")
			if err != nil {
				b.Fatal(err)
			}
			if _, err := f.ReadFrom(bytes.NewReader(content)); err != nil {
				b.Fatal(err)
			}
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("download", func(b *testing.B) {
		b.SetBytes(int64(len(content)))
		for b.Loop() {
			f, err := s.Open(dir + "/file")
			if err != nil {
				b.Fatal(err)
			}
			if _, err := f.WriteTo(io.Discard); err != nil {
				b.Fatal(err)
			}
			_ = f.Close()
		}
	})
}
