package lint

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
)

// checkState reports package state: init functions, and package variables that
// change. What is set once where it is declared and never written (sentinel
// errors, tables, compiled patterns, embedded files) is a constant in all but
// name.
func checkState(files []*file) []string {
	var findings []string
	packages := make(map[string][]*file)
	for _, f := range files {
		if f.test || f.generated {
			continue
		}
		packages[path.Dir(f.path)] = append(packages[path.Dir(f.path)], f)
		for _, decl := range f.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				findings = append(findings, f.finding(fn, "init function: do it in a constructor"))
			}
		}
	}
	for _, pkg := range packages {
		findings = append(findings, checkVars(pkg)...)
	}
	slices.Sort(findings)
	return findings
}

// checkVars looks at the package variables of one package.
func checkVars(files []*file) []string {
	var findings []string
	vars := make(map[string]*ast.ValueSpec)
	for _, f := range files {
		for _, decl := range f.syntax.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.VAR {
				continue
			}
			for _, spec := range group.Specs {
				value := spec.(*ast.ValueSpec)
				if why := startsMutable(group, value); why != "" {
					findings = append(findings, f.finding(value, "package variable %s %s: keep it in a struct", value.Names[0].Name, why))
					continue
				}
				for _, name := range value.Names {
					if name.Name != "_" {
						vars[name.Name] = value
					}
				}
			}
		}
	}
	for _, f := range files {
		for _, written := range writes(f.syntax) {
			spec, ok := vars[written.Name]
			// The parser resolves names within a file: a local variable of the
			// same name has another declaration.
			if ok && (written.Obj == nil || written.Obj.Decl == spec) {
				findings = append(findings, f.finding(written, "writes package variable %s: keep it in a struct", written.Name))
			}
		}
	}
	return findings
}

// startsMutable returns why a variable is state by its declaration alone.
func startsMutable(group *ast.GenDecl, spec *ast.ValueSpec) string {
	if spec.Names[0].Name == "_" {
		return ""
	}
	if isSync(spec.Type) {
		return "is for synchronising"
	}
	if len(spec.Values) == 0 {
		if isEmbed(group.Doc) || isEmbed(spec.Doc) {
			return ""
		}
		return "has no value yet"
	}
	for _, value := range spec.Values {
		switch v := value.(type) {
		case *ast.CompositeLit:
			if isSync(v.Type) {
				return "is for synchronising"
			}
		case *ast.UnaryExpr:
			if lit, ok := v.X.(*ast.CompositeLit); ok && isSync(lit.Type) {
				return "is for synchronising"
			}
		case *ast.CallExpr:
			if fn, ok := v.Fun.(*ast.Ident); ok && (fn.Name == "make" || fn.Name == "new") {
				return "is made empty, to be filled"
			}
		}
	}
	return ""
}

// isSync reports whether a type is of sync or sync/atomic.
func isSync(expr ast.Expr) bool {
	switch t := expr.(type) {
	case *ast.IndexExpr: // atomic.Pointer[T]
		return isSync(t.X)
	case *ast.StarExpr:
		return isSync(t.X)
	case *ast.SelectorExpr:
		pkg, ok := t.X.(*ast.Ident)
		return ok && (pkg.Name == "sync" || pkg.Name == "atomic")
	}
	return false
}

func isEmbed(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool {
		return len(c.Text) > len("//go:embed") && c.Text[:len("//go:embed")] == "//go:embed"
	})
}

// writes returns the variables that a file assigns to, changes in place or takes
// the address of.
func writes(syntax *ast.File) []*ast.Ident {
	var idents []*ast.Ident
	add := func(expr ast.Expr) {
		if ident := root(expr); ident != nil {
			idents = append(idents, ident)
		}
	}
	ast.Inspect(syntax, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, left := range n.Lhs {
					add(left)
				}
			}
		case *ast.IncDecStmt:
			add(n.X)
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				add(n.X)
			}
		case *ast.CallExpr:
			fn, ok := n.Fun.(*ast.Ident)
			if ok && (fn.Name == "delete" || fn.Name == "clear" || fn.Name == "copy") && len(n.Args) > 0 {
				add(n.Args[0])
			}
		}
		return true
	})
	return idents
}

// root returns x for x, x.f, x[i], *x and their combinations.
func root(expr ast.Expr) *ast.Ident {
	for {
		switch e := expr.(type) {
		case *ast.Ident:
			return e
		case *ast.SelectorExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.StarExpr:
			expr = e.X
		case *ast.ParenExpr:
			expr = e.X
		default:
			return nil
		}
	}
}
