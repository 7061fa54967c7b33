package lint

import (
	"slices"
	"strconv"
	"strings"
)

// ranks are the rooms. A room imports lower ranks only, so data goes one way and
// there are no circles; rooms of one rank do not know each other. A new room
// needs a reason, and a line here; a line without a room keeps a place.
var ranks = map[string]int{
	"internal/flow":  0,
	"internal/floor": 0,
	"policies":       0,

	"internal/netns":  1,
	"internal/cgroup": 1,
	"internal/tty":    1,
	"internal/sniff":  1,
	"internal/ca":     1,
	"internal/store":  1,
	"internal/watch":  1,
	"internal/rootfs": 1,

	"internal/datapath": 2,
	"internal/identity": 2,
	"internal/policy":   2,
	"internal/names":    2,
	"internal/provider": 2,
	"internal/event":    2,
	"internal/launch":   2,
	"internal/testenv":  2, // for tests, but it stands on netns

	"internal/relay":   3,
	"internal/sandbox": 3,
	"internal/sshd":    3,
	"internal/source":  3,

	"internal/agent": 4,
	"internal/api":   4,
	"internal/kube":  4,

	"internal/daemon": 5,

	"internal/cli":  6,
	"internal/tool": 6,

	"cmd":             7,
	"internal/e2e":    7, // tests of the whole
	"internal/bypass": 7, // likewise

	"internal/lint": 0,
}

// homes are the rooms of each library: one, as a rule, so that it can be replaced
// and its types do not spread. Tests may use any of them.
var homes = map[string][]string{
	"github.com/cilium/ebpf":            {"internal/datapath"},
	"github.com/open-policy-agent/opa":  {"internal/policy", "policies"},
	"github.com/vishvananda/netlink":    {"internal/netns", "internal/testenv"},
	"github.com/creack/pty":             {"internal/tty"},
	"golang.org/x/crypto/ssh":           {"internal/sshd"},
	"github.com/pkg/sftp":               {"internal/launch", "internal/cli"}, // the server; the client of cp
	"go.etcd.io/bbolt":                  {"internal/store"},
	"github.com/coreos/go-systemd/v22":  {"internal/daemon"},
	"github.com/miekg/dns":              {"internal/names", "internal/testenv"},
	"github.com/elastic/go-seccomp-bpf": {"internal/launch"},
	"google.golang.org/grpc":            {"internal/api"},
	"google.golang.org/protobuf":        {"internal/api"},
	"google.golang.org/genproto":        {"internal/api"},
	"k8s.io":                            {"internal/kube"},
	"sigs.k8s.io":                       {"internal/kube"},
	"github.com/containerd/nri":         {"internal/kube"},
	"github.com/spf13/cobra":            {"internal/cli", "internal/tool"},
	"github.com/spf13/pflag":            {"internal/cli", "internal/tool"},
	"go.yaml.in/yaml/v3":                {"internal/policy", "internal/cli"}, // each reads a format of its own
	"golang.org/x/term":                 {"internal/tty", "internal/cli", "internal/tool", "internal/testenv"},
	"github.com/google/go-cmp":          {},
	"github.com/rogpeppe/go-internal":   {},
}

// everywhere are libraries that extend the standard one: they need no home.
var everywhere = []string{"golang.org/x/sys", "golang.org/x/sync", "github.com/hashicorp/golang-lru/v2"}

// checkImports reports imports against ranks and homes. Tests may import what
// the compiler lets them; the rules are about what ships.
func checkImports(files []*file) []string {
	var findings []string
	for _, f := range files {
		if _, ok := ranks[f.room()]; !ok {
			findings = append(findings, f.finding(f.syntax.Name,
				"%s is no room that internal/lint knows: a new room needs a reason, and a rank there", f.room()))
			continue
		}
		if f.test {
			continue
		}
		for _, spec := range f.syntax.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue // the compiler says so
			}
			if why := f.mayImport(path); why != "" {
				findings = append(findings, f.finding(spec, "%s", why))
			}
		}
	}
	return findings
}

// mayImport returns why the file may not import path; "" where it may.
func (f *file) mayImport(path string) string {
	if rest, ok := strings.CutPrefix(path, module+"/"); ok {
		return f.mayImportRoom(roomOf(rest))
	}
	if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	room := f.room()
	if slices.ContainsFunc(everywhere, func(library string) bool { return within(path, library) }) {
		return ""
	}
	for library, rooms := range homes {
		if !within(path, library) || slices.Contains(rooms, room) {
			continue
		}
		if len(rooms) == 0 {
			return library + " is for tests only"
		}
		return library + " lives in " + strings.Join(rooms, " and ") + ": ask that room, by an interface of your own"
	}
	if !slices.ContainsFunc(libraries(), func(library string) bool { return within(path, library) }) {
		return path + " has no home: name one in internal/lint, or do without it"
	}
	return ""
}

func (f *file) mayImportRoom(imported string) string {
	room := f.room()
	switch {
	case imported == room:
		return ""
	case imported == "internal/testenv":
		return "internal/testenv is for tests only"
	case ranks[imported] > ranks[room]:
		return imported + " stands above " + room + ": declare an interface here, and let internal/agent wire it"
	case ranks[imported] == ranks[room]:
		return imported + " is a sibling of " + room + ": declare an interface here, and let internal/agent wire it"
	}
	return ""
}

func libraries() []string {
	var names []string
	for name := range homes {
		names = append(names, name)
	}
	return names
}

// within reports whether an import path is the library or lies below it.
func within(path, library string) bool {
	return path == library || strings.HasPrefix(path, library+"/")
}
