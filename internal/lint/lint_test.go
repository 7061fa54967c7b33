package lint

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// treeRoot is where the tree begins, seen from this package.
const treeRoot = "../.."

// TestTree runs every check on the tree.
func TestTree(t *testing.T) {
	files, err := load(treeRoot)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("%d files: this is not the tree", len(files))
	}
	for name, check := range map[string]func([]*file) []string{
		"imports":          checkImports,
		"state":            checkState,
		"calls":            checkCalls,
		"shape":            checkShape,
		"package comments": checkPackageComments,
	} {
		t.Run(name, func(t *testing.T) {
			for _, finding := range check(files) {
				t.Error(finding)
			}
		})
	}
}

func TestTreeNamesNoRegistry(t *testing.T) {
	list, err := exec.Command("git", "-C", treeRoot, "ls-files", "-z").Output()
	if err != nil {
		t.Skipf("no list of tracked files: %v", err)
	}
	findings, err := checkHosts(treeRoot, strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 }))
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range findings {
		t.Error(finding)
	}
}

// TestTreeRulesAreUsed keeps the tables short: a rank without a folder is one of
// a room still to come, but must be spelt as a room is.
func TestTreeRulesAreUsed(t *testing.T) {
	for room := range ranks {
		if roomOf(room) != room {
			t.Errorf("%s in ranks is no room", room)
		}
	}
	for library, rooms := range homes {
		for _, room := range rooms {
			if _, ok := ranks[room]; !ok {
				t.Errorf("home %s of %s is no room", room, library)
			}
		}
	}
}

func TestChecks(t *testing.T) {
	type check = func([]*file) []string
	imports := func(path string) string { return "package x\n\nimport _ \"" + path + "\"\n" }
	const ours = module + "/internal/"
	for _, test := range []struct {
		name   string
		check  check
		path   string
		source string
		want   string // part of the one finding; "" for none
	}{
		{"lower rank", checkImports, "internal/relay/x.go", imports(ours + "flow"), ""},
		{"sibling", checkImports, "internal/names/x.go", imports(ours + "policy"), "sibling of internal/names"},
		{"higher rank", checkImports, "internal/flow/x.go", imports(ours + "agent"), "stands above internal/flow"},
		{"own subfolder", checkImports, "internal/relay/x.go", imports(ours + "relay/http"), ""},
		{"subfolder of a sibling", checkImports, "internal/sandbox/x.go", imports(ours + "relay/http"), "sibling"},
		{"new room", checkImports, "internal/misc/x.go", "package x", "no room that internal/lint knows"},
		{"fixture in shipped code", checkImports, "internal/relay/x.go", imports(ours + "testenv"), "for tests only"},
		{"fixture in a test", checkImports, "internal/netns/x_test.go", imports(ours + "testenv"), ""},
		{"library at home", checkImports, "internal/datapath/x.go", imports("github.com/cilium/ebpf/link"), ""},
		{"library abroad", checkImports, "internal/relay/x.go", imports("github.com/cilium/ebpf"), "lives in internal/datapath"},
		{"library without home", checkImports, "internal/relay/x.go", imports("example.com/left-pad"), "has no home"},
		{"library of tests", checkImports, "internal/relay/x.go", imports("github.com/google/go-cmp/cmp"), "for tests only"},
		{"standard library", checkImports, "internal/flow/x.go", imports("net/netip"), ""},

		{"init", checkState, "internal/x.go", "package x\nfunc init() {}", "init function"},
		{"method init", checkState, "internal/x.go", "package x\nfunc (t T) init() {}", ""},
		{"sentinel", checkState, "internal/x.go", "package x\nvar ErrX = errors.New(\"x\")", ""},
		{"table", checkState, "internal/x.go", "package x\nvar t = [...]int{1}\nfunc f() int { return t[0] }", ""},
		{"table written", checkState, "internal/x.go", "package x\nvar t = [...]int{1}\nfunc f() { t[0] = 2 }", "writes package variable t"},
		{"shadowed", checkState, "internal/x.go", "package x\nvar t = 1\nfunc f() { t := 2; t = 3 }", ""},
		{"address taken", checkState, "internal/x.go", "package x\nvar t = 1\nfunc f() *int { return &t }", "writes package variable t"},
		{"no value", checkState, "internal/x.go", "package x\nvar t int", "has no value yet"},
		{"embedded", checkState, "internal/x.go", "package x\n//go:embed a\nvar t embed.FS", ""},
		{"mutex", checkState, "internal/x.go", "package x\nvar mu sync.Mutex", "synchronising"},
		{"pool", checkState, "internal/x.go", "package x\nvar p = &sync.Pool{}", "synchronising"},
		{"cache", checkState, "internal/x.go", "package x\nvar c = make(map[int]int)", "made empty"},
		{"assertion", checkState, "internal/x.go", "package x\nvar _ I = T{}\nfunc f() { _ = g() }", ""},
		{"in a test", checkState, "internal/x_test.go", "package x\nvar update bool", ""},

		{"exit", checkCalls, "internal/relay/x.go", "package x\nfunc f() { os.Exit(1) }", "os.Exit"},
		{"exit of a program", checkCalls, "cmd/ringfence/x.go", "package x\nfunc f() { os.Exit(1) }", ""},
		{"sleep", checkCalls, "internal/relay/x.go", "package x\nfunc f() { time.Sleep(1) }", "time.Sleep"},
		{"proc by format", checkCalls, "internal/relay/x.go", "package x\nconst p = \"/proc/%d/exe\"", "/proc/PID"},
		{"proc by sum", checkCalls, "internal/relay/x.go", "package x\nvar p = \"/proc/\" + pid + \"/exe\"", "/proc/PID"},
		{"proc by join", checkCalls, "internal/relay/x.go", "package x\nvar p = filepath.Join(\"/proc\", pid)", "/proc/PID"},
		{"own proc", checkCalls, "internal/relay/x.go", "package x\nvar p = \"/proc/self/fd/\" + n", ""},
		{"proc joined to a constant", checkCalls, "internal/x.go", "package x\nvar p = filepath.Join(\"/proc\", \"self\")", ""},

		{"long file", checkShape, "internal/x.go", "package x\n" + strings.Repeat("\n", 600), "601 lines"},
		{"long function", checkShape, "internal/x.go", "package x\nfunc f() {" + strings.Repeat("\n", 100) + "}", "f has 101 lines"},
		{"long test", checkShape, "internal/x_test.go", "package x\nfunc f() {" + strings.Repeat("\n", 100) + "}", ""},
		{"no package comment", checkPackageComments, "internal/x/x.go", "package x", "no package comment"},
		{"comment of another", checkPackageComments, "internal/x/x.go", "// Package y is.\npackage x", "no package comment"},
		{"package comment", checkPackageComments, "internal/x/x.go", "// Package x is.\npackage x", ""},
		{"command", checkPackageComments, "cmd/rftool/x.go", "// Command rftool is.\npackage main", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := parse(test.path, []byte(test.source))
			if err != nil {
				t.Fatal(err)
			}
			findings := test.check([]*file{f})
			if test.want == "" && len(findings) > 0 || test.want != "" && (len(findings) != 1 || !strings.Contains(findings[0], test.want)) {
				t.Errorf("findings = %q, want %q", findings, test.want)
			}
		})
	}
}

// TestStateAcrossFiles writes a variable in another file than it is declared in.
func TestStateAcrossFiles(t *testing.T) {
	var files []*file
	for name, source := range map[string]string{
		"internal/x/a.go": "package x\nvar table = []int{1}",
		"internal/x/b.go": "package x\nfunc f() { table[0]++ }",
		"internal/y/c.go": "package y\nfunc f() { table[0]++ }",
	} {
		f, err := parse(name, []byte(source))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	want := []string{"internal/x/b.go:2: writes package variable table: keep it in a struct"}
	if diff := cmp.Diff(want, checkState(files)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestLoadSkips(t *testing.T) {
	files, err := load(filepath.Join(treeRoot, "internal", "lint"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(files, func(f *file) bool { return f.path == "lint_test.go" && f.test }) {
		t.Error("this file was not loaded")
	}
	for _, dir := range []string{".git", "testdata", "_old", "bin"} {
		if !ignored(dir) {
			t.Errorf("%s is not skipped", dir)
		}
	}
}
