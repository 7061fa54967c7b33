package lint

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// module is the import path of the tree's root.
const module = "github.com/ringfence/ringfence"

// file is one Go file of the tree.
type file struct {
	path      string // from the root, with slashes
	test      bool
	generated bool
	lines     int
	fset      *token.FileSet
	syntax    *ast.File
}

// room returns the folder that a rule is about: the first below internal/ or
// cmd/, else the first of all. Folders below a room belong to it.
func (f *file) room() string { return roomOf(path.Dir(f.path)) }

func roomOf(dir string) string {
	parts := strings.Split(dir, "/")
	if len(parts) > 1 && parts[0] == "internal" {
		return parts[0] + "/" + parts[1]
	}
	return parts[0]
}

// finding formats "path:line: text".
func (f *file) finding(at ast.Node, format string, args ...any) string {
	return fmt.Sprintf("%s:%d: %s", f.path, f.fset.Position(at.Pos()).Line, fmt.Sprintf(format, args...))
}

// load parses every Go file below root, without those that go build ignores.
func load(root string) ([]*file, error) {
	var files []*file
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != root && ignored(entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		source, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		parsed, err := parse(filepath.ToSlash(relative), source)
		if err == nil {
			files = append(files, parsed)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load tree: %w", err)
	}
	return files, nil
}

func ignored(dir string) bool {
	return strings.HasPrefix(dir, ".") || strings.HasPrefix(dir, "_") ||
		dir == "testdata" || dir == "bin" || dir == "dist"
}

func parse(name string, source []byte) (*file, error) {
	fset := token.NewFileSet()
	syntax, err := parser.ParseFile(fset, name, source, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	return &file{
		path:      name,
		test:      strings.HasSuffix(name, "_test.go"),
		generated: ast.IsGenerated(syntax),
		lines:     bytes.Count(source, []byte("\n")),
		fset:      fset,
		syntax:    syntax,
	}, nil
}
