package lint

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

// forbidden are calls that only some rooms may make, and what to do instead.
var forbidden = []struct {
	call    string
	rooms   []string
	instead string
}{
	{"os.Exit", []string{"cmd", "internal/launch", "internal/cli", "internal/tool", "internal/testenv"}, "return an error: deferred cleanups must run"},
	{"log.Fatal", nil, "return an error"},
	{"log.Fatalf", nil, "return an error"},
	{"log.Fatalln", nil, "return an error"},
	{"log.Panic", nil, "return an error"},
	{"log.Panicf", nil, "return an error"},
	{"time.Sleep", []string{"internal/testenv"}, "wait for the event, or for a timer and a context"},
}

// checkCalls reports forbidden calls, and paths below /proc/PID: a pid is no
// identity, and the agent works with other processes' /proc hidden.
func checkCalls(files []*file) []string {
	var findings []string
	for _, f := range files {
		if f.test || f.generated {
			continue
		}
		ast.Inspect(f.syntax, func(node ast.Node) bool {
			if call, ok := node.(*ast.CallExpr); ok {
				for _, rule := range forbidden {
					if calls(call, rule.call) && !slices.Contains(rule.rooms, f.room()) {
						findings = append(findings, f.finding(call, "%s: %s", rule.call, rule.instead))
					}
				}
			}
			if f.room() != "internal/testenv" && formatsProc(node) {
				findings = append(findings, f.finding(node, "a path below /proc/PID: use a pidfd, or what a hook told"))
				return false
			}
			return true
		})
	}
	return findings
}

// calls reports whether a call names pkg.Func.
func calls(call *ast.CallExpr, name string) bool {
	fn, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := fn.X.(*ast.Ident)
	return ok && pkg.Name+"."+fn.Sel.Name == name
}

// procVerb is written so that this file passes its own check.
const procVerb = "/proc" + "/%"

// formatsProc reports whether a node makes a path of /proc and something that is
// not written out: "/proc/%d", "/proc/" + x, Join("/proc", x).
func formatsProc(node ast.Node) bool {
	switch n := node.(type) {
	case *ast.BasicLit:
		return strings.Contains(text(n), procVerb)
	case *ast.BinaryExpr:
		return n.Op == token.ADD && strings.HasSuffix(text(lastOperand(n.X)), "/proc/")
	case *ast.CallExpr:
		join := calls(n, "filepath.Join") || calls(n, "path.Join")
		return join && len(n.Args) > 1 && strings.Trim(text(n.Args[0]), "/") == "proc" && text(n.Args[1]) == ""
	}
	return false
}

func lastOperand(expr ast.Expr) ast.Expr {
	if sum, ok := expr.(*ast.BinaryExpr); ok && sum.Op == token.ADD {
		return lastOperand(sum.Y)
	}
	return expr
}

// text returns the value of a string literal; "" for anything else.
func text(expr ast.Expr) string {
	lit, ok := expr.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	value, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return value
}
