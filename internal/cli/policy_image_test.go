package cli

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/source"
)

// What a sandbox can call its files is quoted before a person sees it.
func TestHostileNames(t *testing.T) {
	const bad = "x\x1b]0;owned\a\nallowed: y\u009b31m\u202e"
	root := t.TempDir()
	for _, err := range []error{
		os.WriteFile(filepath.Join(root, bad), nil, 0o755),
		os.Symlink(bad, filepath.Join(root, "link")),
		os.WriteFile(filepath.Join(root, "script"), []byte("#!/bin/"+strings.ReplaceAll(bad, "\n", "")+"\n"), 0o755),
		os.Mkdir(filepath.Join(root, "rules"), 0o755),
		os.WriteFile(filepath.Join(root, "rules", bad+".rego"), []byte("nonsense"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	v := &view{Root: rootfs.New(dir), dir: dir, user: rootfs.User{UID: 1000}}
	var said []string
	for _, name := range []string{"/link", "/script", "/" + strings.ReplaceAll(bad, "\n", ""), "/none" + bad} {
		_, notes, err := v.image("--binary", name)
		if err != nil {
			said = append(said, err.Error())
		}
		said = append(said, notes...)
	}
	p, _, err := policy.Load(policy.Source{Name: bad, Data: []byte("version: 1\nnetwork_policies: {p: {endpoints: [{host: a.test, port: 1}], binaries: [{path: /link}]}}")})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := p.YAML(v.links(p))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := policy.Load(policy.Source{Name: "again", Data: shown}); err != nil {
		t.Errorf("what is shown does not load again: %v", err)
	}
	said = append(said, strings.Split(string(shown), "\n")...)
	content, err := source.Set{RegoDir: filepath.Join(root, "rules")}.Read()
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = content.Load()
	said = append(said, err.Error())
	if len(said) < 8 {
		t.Errorf("only %d texts: %q", len(said), said)
	}
	for _, text := range said {
		if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
			t.Errorf("%q", text)
		}
	}
}

// A program's file is looked into only if it is a regular one in the root: a pipe
// would have explain wait for ever, and a link could lead out of the root.
func TestJudgeLooksIntoFilesOnly(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	for _, err := range []error{
		os.WriteFile(outside, []byte("x"), 0o755),
		os.Symlink(outside, filepath.Join(root, "link")),
		unix.Mkfifo(filepath.Join(root, "pipe"), 0o755),
		os.WriteFile(filepath.Join(root, "file"), []byte("x"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	v := &view{Root: rootfs.New(dir), dir: dir, user: rootfs.User{UID: 54321, GID: 54321}}
	for name, hashed := range map[string]bool{"/link": false, "/pipe": false, "/missing": false, "/file": true} {
		image, notes := v.judge(name)
		if (image.SHA256 != "") != hashed || (notes == nil) != hashed {
			t.Errorf("%s: hash %q, notes %q", name, image.SHA256, notes)
		}
	}
}
