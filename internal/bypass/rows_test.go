package bypass

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// lastRow is the last row of the list of ways around a fence.
const lastRow = 38

// elsewhere says of a part of a row where it is tried, or why it is not yet.
type elsewhere struct {
	row  int
	what string
	by   string // package.Test; empty: not yet
	why  string // it is not tried yet
}

// others are what is not tried here.
func others() []elsewhere {
	const inspection = "comes with the inspection of requests"
	return []elsewhere{
		{row: 5, what: "clients that ask for MPTCP fall back", by: "e2e.TestMultipathTCPFallsBack"},
		{row: 7, what: "standard streams that are sockets, as pipes", by: "launch.TestSocketsBecomePipes"},
		{row: 8, what: "the ports while no agent of a service listens", by: "e2e.TestAttackPortsWhileNoAgentListens"},
		{row: 10, what: "a root that is forged where there is no seccomp filter", by: "datapath.TestTaints"},
		{row: 11, what: "a link to the host's services in the place of a visible directory", by: "e2e.TestAttackLinkForAVisibleDirectory"},
		{row: 15, what: "Host and target", why: inspection},
		{row: 17, what: "requests of an inspected connection", why: inspection},
		{row: 17, what: "heads in pieces", by: "sniff.TestScanHead"},
		{row: 18, what: "paths", why: inspection},
		{row: 18, what: "what policy says of a path", by: "policy.TestRequests"},
		{row: 19, what: "a name that changes between look-up and dial", by: "names.TestResolve"},
		{row: 28, what: "exec, fork and exit against each other, by the thousand", by: "datapath.TestIdentity"},
		{row: 28, what: "an ancestry without end", by: "datapath.TestLongAncestryIsBounded"},
		{row: 28, what: "a connect put off until its program is gone", by: "datapath.TestDeferredConnectHasNoOrigin"},
		{row: 29, what: "connections at one time", by: "relay.TestLimit"},
		{row: 29, what: "rejections that are too many to be told", by: "datapath.TestRejectionsAreTold"},
		{row: 30, what: "slow heads and hellos", by: "relay.TestProxyRefusals"},
		{row: 30, what: "bodies", why: inspection},
		{row: 31, what: "an agent killed under load beside another one", by: "e2e.TestAgentKilledUnderLoad"},
		{row: 31, what: "a disk that is full", by: "e2e.TestRecordsToAFullDisk"},
		{row: 31, what: "a resolver that is down", by: "names.TestResolveSeveralServers"},
		{row: 32, what: "policies that do not load", by: "policy.TestEveryLoadErrorIsGiven"},
		{row: 32, what: "files that disagree", by: "policy.TestLoadFindsConflictsOverFiles"},
		{row: 32, what: "a bad policy at the start", by: "e2e.TestBadPolicyStartsNothing"},
		{row: 32, what: "a bad reload", by: "e2e.TestReload"},
		{row: 33, what: "trusted domains", why: "rules on methods, paths and bodies come with the inspection of requests"},
		{row: 35, what: "what comes in by SSH", by: "e2e.TestSSHIntoTheFence"},
		{row: 35, what: "forwards to the host, to another sandbox, to the agent, by any name", by: "e2e.TestAttackForwards"},
		{row: 35, what: "forwards to what is not a port or an address of the sandbox's own", by: "sshd.TestForwardTargets"},
		{row: 35, what: "forwards of the client's side, of agents and of displays", by: "sshd.TestNothingLeadsOut"},
		{row: 35, what: "a dialing process that hands over something else", by: "launch.TestHostileDialer"},
		{row: 35, what: "variables of loaders and shells", by: "sshd.TestVariables"},
		{row: 35, what: "other subsystems, and more than one command", by: "sshd.TestOneCommandForAChannel"},
		{row: 35, what: "SFTP past the user's rights, and past the policy's files", by: "launch.TestSFTPIsFenced"},
		{row: 35, what: "a session before the fence", by: "sshd.TestNoSessionBeforeTheFence"},
		{row: 35, what: "a certificate of a sandbox that was deleted", by: "e2e.TestAttackCertificateOfADeletedSandbox"},
		{row: 36, what: "a terminal that is put back, whatever ended the command", by: "e2e.TestTerminalIsRestored"},
		{row: 37, what: "the summary on a terminal", by: "e2e.TestHostileProgramNameOnATerminal"},
		{row: 38, what: "links that change while they are looked at", by: "rootfs.TestWritableWhileItChanges"},
	}
}

// TestEveryRow: each row is tried here or elsewhere, or says why not yet.
func TestEveryRow(t *testing.T) {
	tried := map[int]int{}
	titles := map[string]bool{}
	for _, g := range groups() {
		if n := len(g.all()); n > 200 {
			t.Errorf("the group %s has %d attempts: their addresses are at an end", g.name, n)
		}
		for _, a := range g.all() {
			tried[a.row]++
			if titles[a.title()] {
				t.Errorf("%s is there twice", a.title())
			}
			titles[a.title()] = true
			if a.want == "" || a.try == nil {
				t.Errorf("%s tries nothing, or wants nothing", a.title())
			}
			if len(a.label()) > 63 {
				t.Errorf("%s is too long for a name", a.title())
			}
		}
	}
	excused := map[int]bool{}
	for _, o := range others() {
		if (o.by == "") == (o.why == "") || o.what == "" {
			t.Errorf("row %d: %+v says nothing, or too much", o.row, o)
		}
		excused[o.row] = true
	}
	for row := 1; row <= lastRow; row++ {
		if tried[row] == 0 && !excused[row] {
			t.Errorf("row %d is not tried", row)
		}
		t.Logf("row %02d: %d attempts here", row, tried[row])
	}
	for row := range tried {
		if row < 0 || row > lastRow {
			t.Errorf("there is no row %d", row)
		}
	}
}

// TestOthersExist looks for the tests that are named above in the source, where
// that is at hand.
func TestOthersExist(t *testing.T) {
	const root = "../.." // of the tree
	if _, err := os.Stat(filepath.Join(root, "go.mod")); errors.Is(err, fs.ErrNotExist) {
		t.Skip("cannot run here: the source is not at hand")
	}
	known := map[string][]string{}
	for _, o := range others() {
		if o.by == "" {
			continue
		}
		room, name, _ := strings.Cut(o.by, ".")
		if known[room] == nil {
			known[room] = testsIn(t, filepath.Join(root, "internal", room))
		}
		if !slices.Contains(known[room], name) {
			t.Errorf("row %d: there is no test %s", o.row, o.by)
		}
	}
}

// testsIn returns the names of the tests in a directory.
func testsIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	isTest := regexp.MustCompile(`^Test[A-Z0-9]`)
	var names []string
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if fn, is := decl.(*ast.FuncDecl); is && fn.Recv == nil && isTest.MatchString(fn.Name.Name) {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}
