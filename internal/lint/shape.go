package lint

import (
	"go/ast"
	"maps"
	"path"
	"slices"
	"strings"
)

// Beyond these lengths there is a better seam. The aim is half.
const (
	maxFileLines     = 600
	maxFunctionLines = 100
)

// checkShape reports files and functions that are too long. The length of a
// function does not count in tests: tables are long.
func checkShape(files []*file) []string {
	var findings []string
	for _, f := range files {
		if f.generated {
			continue
		}
		if f.lines > maxFileLines {
			findings = append(findings, f.finding(f.syntax.Name, "%d lines, more than %d: split it by ideas", f.lines, maxFileLines))
		}
		for _, decl := range f.syntax.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || f.test {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > maxFunctionLines {
				findings = append(findings, f.finding(fn, "%s has %d lines, more than %d: find its steps", fn.Name.Name, n, maxFunctionLines))
			}
		}
	}
	return findings
}

// checkPackageComments reports packages without a comment, or with several.
func checkPackageComments(files []*file) []string {
	commented := make(map[string][]string)
	for _, f := range files {
		if f.test || f.generated {
			continue
		}
		dir := path.Dir(f.path)
		if _, ok := commented[dir]; !ok {
			commented[dir] = nil
		}
		if f.syntax.Doc == nil {
			continue
		}
		want := "Package " + f.syntax.Name.Name + " "
		if f.syntax.Name.Name == "main" {
			want = "Command " + path.Base(dir) + " "
		}
		if strings.HasPrefix(f.syntax.Doc.Text(), want) {
			commented[dir] = append(commented[dir], path.Base(f.path))
		}
	}
	var findings []string
	for _, dir := range slices.Sorted(maps.Keys(commented)) {
		switch names := commented[dir]; {
		case len(names) == 0:
			findings = append(findings, dir+": no package comment: say what this room is for, and what may not come in")
		case len(names) > 1:
			findings = append(findings, dir+": package comments in "+strings.Join(names, " and ")+": keep one")
		}
	}
	return findings
}
