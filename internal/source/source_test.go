package source

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/policies"
)

// write makes a file and the directories above it.
func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err := errors.Join(err, os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// odd makes files that are no regular ones, in the working directory.
func odd(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("unix", "./socket")
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	must(t, errors.Join(
		unix.Mkfifo("fifo", 0o666), os.Mkdir("folder", 0o755),
		os.Symlink("mine.yaml", "link.yaml"), os.Symlink("fifo", "link.fifo"), os.Symlink("missing", "dangling.yaml")))
}

func TestReadPolicies(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"default", "mine", "mine.yaml"} {
		write(t, name, "version: 1 # "+name)
	}
	odd(t)
	write(t, "full.yaml", strings.Repeat("#", policy.MaxFile))
	write(t, "large.yaml", strings.Repeat("#", policy.MaxFile+1))
	for _, test := range []struct {
		spec string
		want string // part of its text, or of the error
		hint string // part of the error's hint
		fail bool
	}{
		{"default", string(policies.Default), "", false}, // whatever lies here
		{"./default", "# default", "", false},
		{"mine.yaml", "# mine.yaml", "", false},
		{"./mine", "# mine", "", false},
		{"link.yaml", "# mine.yaml", "", false},
		{"full.yaml", "##", "", false},
		{"mine", `no shipped policy is named "mine"`, "default, ", true},
		{"mine", `no shipped policy is named "mine"`, "write ./mine for a file", true},
		{"", "the name is empty", "default", true},
		{"missing.yaml", "no such file", "", true},
		{"dangling.yaml", "no such file", "", true},
		{"large.yaml", "more than 262144 bytes", "", true},
		{"/dev/zero", "/dev/zero is not a regular file", "write it to a file", true}, // without end
		{"./fifo", "not a regular file", "write it to a file", true},                 // nobody writes
		{"link.fifo", "not a regular file", "write it to a file", true},
		{"./socket", "no such device", "", true},
		{"./folder", "./folder is a directory", "", true},
		{".", ". is a directory", "", true},
	} {
		t.Run(test.spec, func(t *testing.T) {
			content, err := Set{Specs: []string{test.spec}}.Read()
			if test.fail {
				var hinted *Error
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "read policy: ") {
					t.Errorf("error %v, want %q", err, test.want)
				}
				if test.hint != "" && (!errors.As(err, &hinted) || !strings.Contains(hinted.Hint, test.hint)) {
					t.Errorf("hint of %#v, want %q", err, test.hint)
				}
				return
			}
			if err != nil || len(content.Policies) != 1 || content.Modules != nil {
				t.Fatalf("%d policies, %v", len(content.Policies), err)
			}
			if got := content.Policies[0]; got.Name != test.spec || !strings.Contains(string(got.Data), test.want) {
				t.Errorf("%s: %d bytes", got.Name, len(got.Data))
			}
		})
	}
}

func TestReadInOrder(t *testing.T) {
	dir := t.TempDir()
	b, a := filepath.Join(dir, "b.yaml"), filepath.Join(dir, "a.yaml")
	write(t, a, "a")
	write(t, b, "b")
	got, err := Set{Specs: []string{b, "default", a}}.Read()
	want := Content{Policies: []policy.Source{{Name: b, Data: []byte("b")}, {Name: "default", Data: policies.Default}, {Name: a, Data: []byte("a")}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, content (-want +got):\n%s", err, diff)
	}
	got, err = Set{}.Read()
	want = Content{Policies: want.Policies[1:2]}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("no specs: %v, content (-want +got):\n%s", err, diff)
	}
}

func TestReadModules(t *testing.T) {
	many := func(n int) (names []string) {
		for i := range n {
			names = append(names, fmt.Sprintf("r/m%02d.rego", i))
		}
		return names
	}
	for _, test := range []struct {
		name  string
		files []string
		setup func() error
		want  []string // their names
		err   string   // part of the error; then nothing is wanted
	}{
		{"sorted", []string{"r/b.rego", "r/a.rego", "r/c.rego"}, nil, []string{"r/a.rego", "r/b.rego", "r/c.rego"}, ""},
		{"others", []string{"r/a.rego", "r/a_test.rego", "r/README", "r/.b.rego", "r/a.rego~", "r/sub/c.rego", "r/.rego"}, nil, []string{"r/a.rego"}, ""},
		{"link", []string{"r/a.rego", "far/b"}, func() error { return os.Symlink("../far/b", "r/b.rego") }, []string{"r/a.rego", "r/b.rego"}, ""},
		{"as many as may be", many(64), nil, many(64), ""},
		{"one more", many(65), nil, nil, "r has 65 Rego modules, at most 64 are read"},
		{"missing", nil, nil, nil, "no such file"},
		{"empty", nil, func() error { return os.Mkdir("r", 0o755) }, nil, "r has no Rego modules"},
		{"only tests", []string{"r/a_test.rego"}, nil, nil, "r has no Rego modules"},
		{"a file", []string{"r"}, nil, nil, "not a directory"},
		{"a FIFO", nil, func() error { return unix.Mkfifo("r", 0o666) }, nil, "not a directory"},
		{"a FIFO in it", []string{"r/a.rego"}, func() error { return unix.Mkfifo("r/b.rego", 0o666) }, nil, "r/b.rego is not a regular file"},
		{"a directory in it", []string{"r/a.rego/x"}, nil, nil, "r/a.rego is a directory"},
		{"a dangling link", []string{"r/a.rego"}, func() error { return os.Symlink("gone", "r/b.rego") }, nil, "no such file"},
		{"large", []string{"r/a.rego"}, func() error { return os.Truncate("r/a.rego", policy.MaxFile+1) }, nil, "more than 262144 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for _, file := range test.files {
				write(t, file, "package "+file)
			}
			if test.setup != nil {
				must(t, test.setup())
			}
			for _, dir := range []string{"r", "r/"} {
				content, err := Set{RegoDir: dir}.Read()
				if test.err != "" {
					if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(test.err, "r")) || content.Policies != nil {
						t.Errorf("%d policies, error %v, want %q", len(content.Policies), err, test.err)
					}
					continue
				}
				var names []string
				for _, m := range content.Modules {
					names = append(names, m.Name)
					if !strings.HasPrefix(string(m.Data), "package ") {
						t.Errorf("%s has %q", m.Name, m.Data)
					}
				}
				if diff := cmp.Diff(test.want, names); diff != "" || err != nil || len(content.Policies) != 1 {
					t.Errorf("%v, modules (-want +got):\n%s", err, diff)
				}
			}
		})
	}
}

func TestErrorIsWhatItWraps(t *testing.T) {
	err := error(&Error{Err: fmt.Errorf("read: %w", fs.ErrNotExist), Hint: "x"})
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != "read: file does not exist" {
		t.Errorf("%v", err)
	}
}

func TestEqual(t *testing.T) {
	source := func(name, data string) []policy.Source { return []policy.Source{{Name: name, Data: []byte(data)}} }
	a := Content{Policies: source("a", "1"), Modules: source("m", "2")}
	for _, test := range []struct {
		name  string
		other Content
		want  bool
	}{
		{"same", Content{Policies: source("a", "1"), Modules: source("m", "2")}, true},
		{"other name", Content{Policies: source("b", "1"), Modules: source("m", "2")}, false},
		{"other bytes", Content{Policies: source("a", "2"), Modules: source("m", "2")}, false},
		{"other module", Content{Policies: source("a", "1"), Modules: source("m", "3")}, false},
		{"no module", Content{Policies: source("a", "1")}, false},
		{"nothing", Content{}, false},
	} {
		if got := a.Equal(test.other); got != test.want || test.other.Equal(a) != got {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
