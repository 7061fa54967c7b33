package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// TestHiddenProc: the kernel says who a program is, so the agent needs neither the
// sandbox's processes in /proc nor CAP_SYS_PTRACE.
func TestHiddenProc(t *testing.T) {
	testenv.Require(t, "gcc", "unshare", "setpriv")
	testenv.RequireKernel(t, "hidepid=ptraceable", 5, 8)
	f := newFixture(t)
	client, denied := f.tool(toolC), f.copyOf(f.tool(toolC), "denied")
	policy := f.allow([]int{25}, client)
	running := f.prepare("--policy", policy, "--", "/bin/sh", "-c", client+" -w allowed.test 25; "+denied+" allowed.test 25; true")
	// nsenter --net=… -- [the wrapper] ringfence …
	running.cmd.Args = slices.Insert(running.cmd.Args, 3, "unshare", "-m", "sh", "testdata/hidden-proc.sh")
	running.cmd.Stdout = nil
	stdout, err := running.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := running.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := running.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	output := bufio.NewReader(stdout)
	running.readUntil(t, output, "ready")
	checkHidden(t, running.cmd.Process.Pid, "client")
	if _, err := io.WriteString(stdin, "go\n"); err != nil {
		t.Fatal(err)
	}
	lines, _ := io.ReadAll(output)
	r := running.wait()
	if r.status != 0 || !strings.Contains(string(lines), "220 mail.test") {
		t.Errorf("status %d, output %q\n%s", r.status, lines, r.stderr)
	}
	found := r.about(allowedName)
	if len(found) != 2 {
		t.Fatalf("records: %+v", r.records)
	}
	shell := realPath(t, "sh")
	// Records come at the ends of connections, and these may change places.
	slices.SortFunc(found, func(a, b record) int { return strings.Compare(a.Binary, b.Binary) })
	for i, want := range []record{
		{Verdict: "allow", Engine: "opa", Reason: "allowed", Binary: client},
		{Verdict: "deny", Engine: "opa", Reason: "wrong_binary", Binary: denied},
	} {
		found[i].check(t, want)
		if fmt.Sprint(found[i].Ancestors) != fmt.Sprint([]string{shell}) {
			t.Errorf("ancestors = %q, want %q", found[i].Ancestors, shell)
		}
	}
}

// checkHidden makes sure that the test tests something: the program runs, and who
// has the agent's view and capabilities does not see it.
func checkHidden(t *testing.T, agent int, comm string) {
	t.Helper()
	const look = "grep -lx %s /proc/[0-9]*/comm"
	script := fmt.Sprintf(look, comm)
	if out, err := exec.Command("sh", "-c", script).Output(); err != nil {
		t.Fatalf("%s does not run: %v %s", comm, err, out)
	}
	inView := exec.Command("nsenter", "-t", strconv.Itoa(agent), "-m", "setpriv",
		"--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", "sh", "-c", script)
	if out, err := inView.Output(); err == nil || len(out) != 0 {
		t.Fatalf("the agent could see %s: %s", comm, out)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", agent))
	if err != nil {
		t.Fatal(err)
	}
	_, caps, _ := strings.Cut(string(status), "CapEff:\t")
	caps, _, _ = strings.Cut(caps, "\n")
	set, err := strconv.ParseUint(caps, 16, 64)
	if err != nil || set&(1<<unix.CAP_SYS_PTRACE) != 0 {
		t.Fatalf("the agent has the capabilities %s: %v", caps, err)
	}
}
