package source

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// What anybody but root could have written is read and not taken.
func TestGuard(t *testing.T) {
	const other = 4001
	for _, test := range []struct {
		name  string
		setup func(dir string) error
		want  error // nil: it is taken
	}{
		{"root's", func(string) error { return nil }, nil},
		{"another's file", func(dir string) error { return os.Chown(dir+"/p.yaml", other, 0) }, ErrOthersWrite},
		{"another's file for reading", func(dir string) error {
			return errors.Join(os.Chmod(dir+"/p.yaml", 0o444), os.Chown(dir+"/p.yaml", other, 0))
		}, ErrOthersWrite},
		{"a group's file", func(dir string) error { return os.Chmod(dir+"/p.yaml", 0o664) }, ErrOthersWrite},
		{"anybody's file", func(dir string) error { return os.Chmod(dir+"/p.yaml", 0o646) }, ErrOthersWrite},
		{"in another's directory", func(dir string) error { return os.Chown(dir, other, 0) }, ErrOthersWrite},
		{"in anybody's sticky directory", func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, ErrOthersWrite},
		{"behind another's link", func(dir string) error {
			if err := os.Mkdir(dir+"/real", 0o755); err != nil {
				return err
			}
			return errors.Join(os.Rename(dir+"/p.yaml", dir+"/real/p.yaml"), os.Symlink("real/p.yaml", dir+"/p.yaml"), os.Chown(dir, other, 0))
		}, ErrOthersWrite},
		{"behind root's link", func(dir string) error {
			return errors.Join(os.Rename(dir+"/p.yaml", dir+"/q.yaml"), os.Symlink("q.yaml", dir+"/p.yaml"))
		}, nil},
		{"a directory in its place", func(dir string) error {
			return errors.Join(os.Remove(dir+"/p.yaml"), os.Mkdir(dir+"/p.yaml", 0o755))
		}, errAny},
		{"a FIFO in its place", func(dir string) error {
			return errors.Join(os.Remove(dir+"/p.yaml"), unix.Mkfifo(dir+"/p.yaml", 0o644))
		}, errAny},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := fixed(t)
			write(t, filepath.Join(dir, "p.yaml"), "one")
			must(t, test.setup(dir))
			r := NewGuard(Set{Specs: []string{filepath.Join(dir, "p.yaml")}}).Read()
			switch {
			case test.want == nil && (r.Err != nil || string(r.Content.Policies[0].Data) != "one"):
				t.Errorf("%+v", r)
			case test.want == errAny && r.Err == nil, test.want != nil && test.want != errAny && !errors.Is(r.Err, test.want):
				t.Errorf("error %v, want %v", r.Err, test.want)
			}
		})
	}
}

var errAny = errors.New("any")

// Modules and their directory count as well.
func TestGuardModules(t *testing.T) {
	for name, setup := range map[string]func(dir string) error{
		"the directory": func(dir string) error { return os.Chmod(dir, 0o777) },
		"a module":      func(dir string) error { return os.Chmod(dir+"/a.rego", 0o666) },
	} {
		dir := fixed(t)
		write(t, filepath.Join(dir, "a.rego"), "package ringfence.custom")
		guard := NewGuard(Set{RegoDir: dir})
		if r := guard.Read(); r.Err != nil || len(r.Content.Modules) != 1 {
			t.Errorf("%s: before: %+v", name, r)
		}
		must(t, setup(dir))
		if r := guard.Read(); !errors.Is(r.Err, ErrOthersWrite) {
			t.Errorf("%s: %v", name, r.Err)
		}
	}
}

// A descriptor that was opened for writing writes on, whoever owns the file since.
func TestGuardRemembersWhoHadIt(t *testing.T) {
	path := filepath.Join(fixed(t), "p.yaml")
	write(t, path, "one")
	must(t, os.Chmod(path, 0o666))
	guard := NewGuard(Set{Specs: []string{path}})
	if r := guard.Read(); !errors.Is(r.Err, ErrOthersWrite) {
		t.Fatal(r.Err)
	}
	must(t, os.Chmod(path, 0o644))
	if r := guard.Read(); !errors.Is(r.Err, ErrOthersWrite) {
		t.Errorf("the same file: %v", r.Err)
	}
	must(t, os.Remove(path)) // so that its number is free
	write(t, path, "two")
	if r := guard.Read(); r.Err != nil || string(r.Content.Policies[0].Data) != "two" {
		t.Errorf("a new file: %+v", r)
	}
}

// Where there were more files of others than can be remembered, any may be one.
func TestGuardIsFull(t *testing.T) {
	path := filepath.Join(fixed(t), "p.yaml")
	write(t, path, "one")
	guard := NewGuard(Set{Specs: []string{path}})
	for i := range maxOthers {
		guard.others[inode{number: uint64(i)}] = true
	}
	if r := guard.Read(); r.Err != nil {
		t.Fatal(r.Err)
	}
	must(t, os.Chmod(path, 0o666))
	guard.Read()
	must(t, os.Chmod(path, 0o644))
	if r := guard.Read(); !errors.Is(r.Err, ErrOthersWrite) {
		t.Errorf("%+v", r)
	}
}

func TestGuardWaitsForWriters(t *testing.T) {
	path := filepath.Join(fixed(t), "p.yaml")
	write(t, path, "one")
	guard := NewGuard(Set{Specs: []string{path}})
	writer, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	if r := guard.Read(); !errors.Is(r.Err, ErrBeingWritten) {
		t.Errorf("with a writer: %v", r.Err)
	}
	must(t, writer.Close())
	if r := guard.Read(); r.Err != nil {
		t.Errorf("without: %v", r.Err)
	}
	// Nobody is kept from writing once it was read.
	writer, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	must(t, err)
	must(t, writer.Close())
}

// Whatever is exchanged while it is read, what is taken is never another's text.
func TestGuardAgainstExchange(t *testing.T) {
	dir := fixed(t)
	own := filepath.Join(dir, "own")
	must(t, os.Mkdir(own, 0o755))
	path := filepath.Join(own, "p.yaml")
	write(t, path, "root's")
	write(t, filepath.Join(own, "q.yaml"), "another's")
	must(t, os.Chown(filepath.Join(own, "q.yaml"), 4001, 0))
	must(t, os.Mkdir(filepath.Join(own, "d"), 0o755))
	must(t, os.Chown(own, 4001, 0))
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			with := []string{"q.yaml", "d"}[i%2]
			_ = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, filepath.Join(own, with), unix.RENAME_EXCHANGE)
		}
	})
	guard := NewGuard(Set{Specs: []string{path}})
	for range 3000 {
		if r := guard.Read(); r.Err == nil {
			t.Fatalf("taken: %+v", r.Content)
		}
	}
	close(stop)
	swapper.Wait()
}
