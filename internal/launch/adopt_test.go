package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/netns"
	"github.com/ringfence/ringfence/internal/rootfs"
)

// anchored gives a sandbox an anchor in a directory that ends with the test.
func anchored(t testing.TB) func(*Config) {
	t.Helper()
	dir := t.TempDir()
	return func(c *Config) { c.Anchor = filepath.Join(dir, "init") }
}

// adopt adopts a sandbox that ends with the test.
func adopt(t testing.TB, config AdoptConfig) *Adopted {
	t.Helper()
	a, err := Adopt(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		a.Netns.Close()
		if a.Memory != nil {
			a.Memory.Close()
		}
	})
	return a
}

// left is what an agent says of the sandbox that it will leave.
type left struct {
	Numbers  Numbers
	Init     int
	Detached string // pid inside, of a process that has left its command
	Attached int    // pid of a command
}

// probeAnchoredAgent is an agent that makes a sandbox with an anchor and waits to be
// killed.
func probeAnchoredAgent(args []string) int {
	l, err := leaveSandbox(args[0], args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(l)
	time.Sleep(testTimeout)
	return 0
}

func leaveSandbox(group, anchor string) (l left, err error) {
	g, err := cgroup.Open(group)
	if err != nil {
		return l, err
	}
	ns, err := netns.New()
	if err != nil {
		return l, err
	}
	if err := ns.SetupLoopback(nil, nil); err != nil {
		return l, err
	}
	memory, err := os.CreateTemp("", "rf-memory")
	if err != nil {
		return l, err
	}
	defer os.Remove(memory.Name())
	if _, err := memory.WriteString("remembered"); err != nil {
		return l, err
	}
	ctx := context.Background()
	n, err := Start(ctx, Config{
		Name: "box", Netns: ns, Cgroup: g.File(), Anchor: anchor, Memory: memory,
		Files: &Files{ReadOnly: []string{"/usr", "/bin", "/lib", "/lib64"}},
		User:  rootfs.User{UID: testUID, GID: testUID},
	})
	if err != nil {
		return l, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return l, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return l, err
	}
	// The first process in the background kills what the next agent starts. The other's
	// number comes last: with it the agent's end begins, and with that the script's.
	const script = `sh -c 'until [ -s /dev/shm/pid ]; do sleep 0.01; done; kill -KILL $(cat /dev/shm/pid)' </dev/null >/dev/null 2>&1 &
		sh -c 'sleep 1000 <&- >&- 2>&- & echo $!'
		exec sleep 1000`
	c := command("sh", "-c", script)
	c.Stdio = [3]*os.File{null, w, null}
	p, err := n.Exec(ctx, c)
	if err != nil {
		return l, err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	return left{n.Numbers(), n.InitPID(), strings.TrimSpace(line), p.PID}, err
}

// orphan makes a sandbox whose agent is killed, and returns what it said. Its orphans
// are this process's to reap.
func orphan(t *testing.T, g *cgroup.Group, anchor string) left {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	agent := exec.Command("/proc/self/exe", "probe-anchored-agent", g.Path(), anchor)
	agent.Stderr = os.Stderr
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	var l left
	err = json.NewDecoder(out).Decode(&l)
	_ = agent.Process.Kill()
	_ = agent.Wait()
	if err != nil {
		t.Fatal(err)
	}
	// The kernel has killed the command. While nobody reaps it, init cannot end.
	var status unix.WaitStatus
	if _, err := unix.Wait4(l.Attached, &status, 0, nil); err != nil || status.Signal() != unix.SIGKILL {
		t.Errorf("the command of a killed agent: %v, %v", status, err)
	}
	t.Cleanup(func() { _, _ = unix.Wait4(l.Init, nil, 0, nil) })
	return l
}

// A sandbox outlives its agent, and another one takes it over: the namespaces are the
// same, what ran goes on and can be signalled, and new commands are fenced alike.
func TestAdoptAfterAgentDied(t *testing.T) {
	needRoot(t)
	g := testGroup(t)
	anchor := filepath.Join(t.TempDir(), "init")
	l := orphan(t, g, anchor)
	a := adopt(t, AdoptConfig{Anchor: anchor, Cgroup: g.File(), Numbers: l.Numbers})
	if a.InitPID() != l.Init || a.Numbers() != l.Numbers {
		t.Errorf("init %d, %+v, want %+v", a.InitPID(), a.Numbers(), l)
	}
	memory := make([]byte, 20)
	if n, _ := a.Memory.ReadAt(memory, 0); string(memory[:n]) != "remembered" {
		t.Errorf("memory %q", memory[:n])
	}
	script := `for n in mnt pid net; do readlink /proc/self/ns/$n; done; kill -0 ` + l.Detached + ` && echo alive; grep Seccomp: /proc/self/status; cat /etc/passwd`
	r := runIn(t, a.Namespaces, command("sh", "-c", script))
	want := fmt.Sprintf("mnt:[%d]\npid:[%d]\nnet:[%d]\nalive\nSeccomp:\t2\n", l.Numbers.Mount, l.Numbers.PID, l.Numbers.Net)
	if r.out != want || !strings.Contains(r.err, "Permission denied") {
		t.Errorf("%+v, want %q", r, want)
	}
	if r := runIn(t, a.Namespaces, command("sh", "-c", "kill -KILL "+l.Detached)); r.status.Code != 0 {
		t.Errorf("kill what ran before: %+v", r)
	}
	if r := runIn(t, a.Namespaces, command("sh", "-c", "echo $$ > /dev/shm/pid; exec sleep 1000")); r.status.Signal != unix.SIGKILL {
		t.Errorf("be killed by what ran before: %+v", r)
	}
	if err := errors.Join(g.Kill(t.Context()), a.Close()); err != nil {
		t.Fatal(err)
	}
	if procs, err := g.Procs(); err != nil || len(procs) != 0 {
		t.Errorf("left: %v, %v", procs, err)
	}
	if _, err := os.Lstat(anchor); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("anchor: %v", err)
	}
}

// An agent that stops leaves the sandbox to the next, in the same process or another,
// as often as may be; commands end with the agent that has started them.
func TestDetach(t *testing.T) {
	config := newConfig(t, anchored(t))
	first, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c := command("sleep", "1000")
	c.Stdio = [3]*os.File{null, null, null}
	p, err := first.Exec(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	numbers, init := first.Numbers(), first.InitPID()
	if err := first.Detach(); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context()); err != nil || status.Signal != unix.SIGKILL {
		t.Errorf("the command ended with %+v, %v", status, err)
	}
	if _, err := first.Exec(t.Context(), c); !errors.Is(err, ErrClosed) {
		t.Errorf("Exec after Detach: %v", err)
	}
	adoption := AdoptConfig{Anchor: config.Anchor, Cgroup: config.Cgroup, Numbers: numbers}
	for range 3 {
		a, err := Adopt(t.Context(), adoption)
		if err != nil {
			t.Fatal(err)
		}
		if r := runIn(t, a.Namespaces, command("sh", "-c", "echo $$")); r.out == "" || a.InitPID() != init {
			t.Errorf("%+v, init %d", r, a.InitPID())
		}
		if err := errors.Join(a.Detach(), a.Netns.Close()); err != nil {
			t.Error(err)
		}
	}
	last := adopt(t, adoption)
	if err := unix.Kill(init, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-last.Done()
	if _, err := Adopt(t.Context(), adoption); !errors.Is(err, ErrGone) {
		t.Errorf("adopt a sandbox whose init was killed: %v", err)
	}
}

// Whatever else answers on an anchor is refused, and so is another sandbox.
func TestAdoptRefusesStrangers(t *testing.T) {
	config := newConfig(t, anchored(t))
	n, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	adoption := AdoptConfig{Anchor: config.Anchor, Cgroup: config.Cgroup, Numbers: n.Numbers()}
	for name, change := range map[string]func(*Numbers){
		"mount":   func(w *Numbers) { w.Mount++ },
		"pid":     func(w *Numbers) { w.PID++ },
		"network": func(w *Numbers) { w.Net++ },
		"user":    func(w *Numbers) { w.User++ },
		"fence":   func(w *Numbers) { w.Fenced = !w.Fenced },
	} {
		other := adoption
		change(&other.Numbers)
		if _, err := Adopt(t.Context(), other); !errors.Is(err, ErrForeign) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	// One that hands out the right descriptors, and is not init.
	forged := filepath.Join(t.TempDir(), "init")
	l, err := net.Listen("unixpacket", forged)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			defer conn.Close()
			_, err = conn.Read(make([]byte, 100))
		}
		asked <- err
	}()
	adoption.Anchor = forged
	if _, err := Adopt(t.Context(), adoption); !errors.Is(err, ErrForeign) {
		t.Errorf("another process: %v", err)
	}
	if err := <-asked; err == nil {
		t.Error("a process that is not init was asked")
	}
	adoption.Anchor = filepath.Join(t.TempDir(), "missing")
	if _, err := Adopt(t.Context(), adoption); !errors.Is(err, ErrGone) {
		t.Errorf("no anchor: %v", err)
	}
}

// Descriptors of the wrong kind are refused by what they are, not by their number.
func TestNumberOfNamespacesOnly(t *testing.T) {
	for path, want := range map[string]error{
		"/proc/self/ns/mnt": nil,
		"/proc/self/ns/net": ErrForeign,
		"/proc/self/status": ErrForeign,
		"/dev/null":         ErrForeign,
	} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := numberOf(f, unix.CLONE_NEWNS); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
		f.Close()
	}
}

// Only root is answered, wherever the anchor is.
func TestAnchorAnswersRootOnly(t *testing.T) {
	config := newConfig(t, anchored(t))
	n, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for dir := filepath.Dir(config.Anchor); strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(config.Anchor, 0o666); err != nil {
		t.Fatal(err)
	}
	probe := exec.Command(probeDir(t)+"/probe", "probe-anchor", config.Anchor)
	probe.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: testUID, Gid: testUID}}
	out, err := probe.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "receive reply: ") {
		t.Errorf("%q, %v", out, err)
	}
	probe = exec.Command("/proc/self/exe", "probe-anchor", config.Anchor)
	if out, err := probe.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "<nil>" {
		t.Errorf("as root: %q, %v", out, err)
	}
}

// probeAnchor asks on an anchor, and prints what came of it.
func probeAnchor(args []string) int {
	conn, err := net.Dial("unixpacket", args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_, _ = conn.Write([]byte(`{"ask":"hand over"}`))
	_, _, err = receiveAny(conn.(*net.UnixConn))
	fmt.Println(err)
	return 0
}

func TestAdoptLeavesNothing(t *testing.T) {
	config := newConfig(t, anchored(t))
	n, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	adoption := AdoptConfig{Anchor: config.Anchor, Cgroup: config.Cgroup, Numbers: n.Numbers()}
	wrong := adoption
	wrong.Numbers.Mount++
	if err := n.Detach(); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c := command("sleep", "1000")
	c.Stdio = [3]*os.File{null, null, null}
	cycle := func() {
		t.Helper()
		a, err := Adopt(t.Context(), adoption)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Exec(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(a.Detach(), a.Netns.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Adopt(t.Context(), wrong); !errors.Is(err, ErrForeign) {
			t.Fatal(err)
		}
	}
	cycle()
	before := measure(t)
	for range 20 {
		cycle()
	}
	expectUsage(t, before)
	if err := adopt(t, adoption).Close(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkAdopt is the launcher's part of adopting one sandbox.
func BenchmarkAdopt(b *testing.B) {
	config := newConfig(b, anchored(b))
	n, err := Start(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	numbers := n.Numbers()
	defer func() { _ = n.Close() }()
	for b.Loop() {
		if err := n.Detach(); err != nil {
			b.Fatal(err)
		}
		a, err := Adopt(b.Context(), AdoptConfig{Anchor: config.Anchor, Cgroup: config.Cgroup, Numbers: numbers})
		if err != nil {
			b.Fatal(err)
		}
		_ = a.Netns.Close()
		n = a.Namespaces
	}
}
