package launch

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/netns"
)

// probeAgent is an agent that starts a sandbox with a few processes in the cgroup
// of its argument, says so, and waits to be killed.
func probeAgent(args []string) int {
	g, err := cgroup.Open(args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ns, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx := context.Background()
	n, err := Start(ctx, Config{Name: "box", Netns: ns, Cgroup: g.File()})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	c := command("sh", "-c", "setsid sleep 1000 & sleep 1000 & exec sleep 1000")
	c.Stdio = [3]*os.File{null, null, null}
	if _, err := n.Exec(ctx, c); err != nil {
		fmt.Println(err)
		return 1
	}
	for procs, _ := g.Procs(); len(procs) < 4; procs, _ = g.Procs() { // init and the three
		time.Sleep(time.Millisecond)
	}
	fmt.Println("ready")
	time.Sleep(testTimeout)
	return 0
}

// A sandbox does not outlive its agent, whatever ends it.
func TestAgentDeathEndsSandbox(t *testing.T) {
	needRoot(t)
	g := testGroup(t)
	agent := exec.Command("/proc/self/exe", "probe-agent", g.Path())
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "ready" {
		t.Errorf("agent: %q", line)
	}
	if procs, err := g.Procs(); err != nil || len(procs) < 4 {
		t.Errorf("processes: %v, %v", procs, err)
	}
	_ = agent.Process.Kill()
	_ = agent.Wait()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		procs, err := g.Procs()
		if err == nil && len(procs) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left after the agent: %v, %v", procs, err)
		}
	}
}
