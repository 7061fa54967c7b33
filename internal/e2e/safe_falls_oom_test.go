package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/testenv"
)

// memoryGroup is a cgroup whose memory can be limited, of whichever version the
// machine has the controller in.
type memoryGroup struct{ dir, limit, kills string }

func newMemoryGroup(t testing.TB) *memoryGroup {
	t.Helper()
	root, err := cgroup.Find()
	if err != nil {
		t.Fatal(err)
	}
	g := &memoryGroup{limit: "memory.max", kills: "memory.events"}
	if enabled, _ := os.ReadFile(filepath.Join(root, "cgroup.subtree_control")); !strings.Contains(string(enabled), "memory") {
		if root = "/sys/fs/cgroup/memory"; !isDir(root) {
			testenv.SkipOn(t, &testenv.Skip{Reason: "needs the memory controller, of cgroup2 (enabled in the root) or of version 1"})
		}
		g.limit, g.kills = "memory.limit_in_bytes", "memory.oom_control"
	}
	g.dir = filepath.Join(root, fmt.Sprintf("ringfence-test-%d", os.Getpid()))
	if err := os.Mkdir(g.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		await(t, "the memory cgroup is removed", func() bool {
			err := unix.Rmdir(g.dir)
			return err == nil || err == unix.ENOENT
		})
	})
	return g
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (g *memoryGroup) write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

// oomKills returns how many processes the kernel has killed for want of memory.
func (g *memoryGroup) oomKills(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, g.kills))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if number, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s does not say oom_kill:\n%s", g.kills, text)
	return 0
}

// The kernel kills the agent because it is short of memory: that is as any other
// death of it.
func TestAgentOutOfMemory(t *testing.T) {
	group := newMemoryGroup(t)
	w := newWorld(t, 2)
	run := w.begin("oom", 0)
	w.writePolicy(0, 0, true)
	at := func(host string) string { return net.JoinHostPort(host, strconv.Itoa(portJudge)) }
	r, _ := w.startSaying(w.policyFile(0), fmt.Sprintf("echo ready; exec %s -tag oom -for 1m -n 200 talk=%s denied=%s",
		w.storm, at(hostName(0, false)), at(deniedName)))
	instance := r.instance()
	await(t, "the load arrives", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.lines > 100
	})
	// What the agent has already stays charged elsewhere: this is for what it wants more.
	group.write(t, group.limit, "262144")
	group.write(t, "cgroup.procs", strconv.Itoa(r.cmd.Process.Pid))
	got := r.wait()
	w.set(func() { run.died = time.Now() })
	status, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL || group.oomKills(t) != 1 {
		t.Fatalf("ended with status %d (%v) after %d kills for want of memory\n%s", got.status, status, group.oomKills(t), got.stderr)
	}
	await(t, "the sandbox's processes are gone", func() bool { return len(processesOf(t, instance)) == 0 })
	if parts := partsOf(t, instance); len(parts) != 3 {
		t.Errorf("of the killed instance there is only %v", parts)
	}
	w.nothingNew(t, 300*time.Millisecond)
	if got := w.run("--policy", w.policyFile(0), "--", "true"); got.status != 0 {
		t.Errorf("the next run: status %d\n%s", got.status, got.stderr)
	}
	noneAbandoned(t)
	w.check(t)
}
