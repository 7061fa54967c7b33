package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// bystander is a sandbox with a program that makes 50 connections a second, each of
// which must be answered, while another sandbox does what it likes. It names its
// server by address: it has no need of a resolver.
type bystander struct {
	w    *world
	r    *running
	read chan []watched
}

// watched is one connection of it.
type watched struct {
	began   time.Time
	took    time.Duration
	outcome string
}

// bystand starts the bystander, in a slot of its own.
func (w *world) bystand(t testing.TB, slot int) *bystander {
	t.Helper()
	tag := fmt.Sprintf("bystander-%d", slot)
	w.begin(tag, slot)
	addr := hostAddr(slot, false)
	policy := w.file("bystander.yaml", "version: 1\nnetwork_policies:\n"+allowBlock("address", addr, []int{portJudge}, w.storm), 0o644)
	r, out := w.with(t).startSaying(policy, fmt.Sprintf("echo ready; exec %s -tag %s -for 24h -n 50 watch=%s",
		w.storm, tag, net.JoinHostPort(addr, strconv.Itoa(portJudge))))
	b := &bystander{w: w, r: r, read: make(chan []watched, 1)}
	go b.readAll(out)
	return b
}

func (b *bystander) readAll(out *bufio.Reader) {
	var all []watched
	for {
		line, err := out.ReadString('\n')
		if err != nil {
			b.read <- all
			return
		}
		fields := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(fields) != 3 {
			continue
		}
		began, _ := strconv.ParseInt(fields[0], 10, 64)
		took, _ := strconv.ParseInt(fields[1], 10, 64)
		all = append(all, watched{time.Unix(0, began), time.Duration(took) * time.Microsecond, fields[2]})
	}
}

// calm is how long the bystander is watched before anything is done to it.
const calm = time.Second

// maxSlowdown is by how much the bystander's median connection may be slower while
// the other sandbox does its worst: both share two processors, which no fence divides.
const maxSlowdown = 50

// end ends the bystander, fails the test when one of its connections failed, and
// returns them all.
func (b *bystander) end(t testing.TB) []watched {
	t.Helper()
	b.r.signal(syscall.SIGTERM)
	all := <-b.read
	b.r.wait()
	for _, c := range all {
		if c.outcome != "ok" {
			t.Errorf("at %v a connection of the bystander, after %v: %s", c.began, c.took, c.outcome)
		}
	}
	return all
}

// unharmed ends the bystander, and fails the test when one of its connections failed,
// or when those of the attack were much slower than those before.
func (b *bystander) unharmed(t testing.TB, attack, over time.Time) {
	t.Helper()
	var before, during []time.Duration
	for _, c := range b.end(t) {
		switch {
		case c.began.Before(attack):
			before = append(before, c.took)
		case c.began.Before(over):
			during = append(during, c.took)
		}
	}
	if len(before) < 10 || len(during) < 10 {
		t.Fatalf("the bystander made %d connections before and %d during the attack", len(before), len(during))
	}
	slices.Sort(before)
	slices.Sort(during)
	was, is := before[len(before)/2], during[len(during)/2]
	t.Logf("bystander: %d connections, median %v; in the attack %d, median %v, slowest %v", len(before), was, len(during), is, during[len(during)-1])
	if is > maxSlowdown*was {
		t.Errorf("the bystander's median connection took %v instead of %v", is, was)
	}
}

// attacker is a sandbox with a shell script that waits for a line at its first read,
// so that there is a moment before, and may wait for more.
type attacker struct {
	*running
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

// attack starts the script in slot 0, under a policy that allows the slot's hosts.
func (w *world) attack(t testing.TB, tag, script string) *attacker {
	t.Helper()
	w.begin(tag, 0)
	w.writePolicy(0, 0, true)
	a := &attacker{running: w.with(t).prepare("--policy", w.policyFile(0), "--", "/bin/sh", "-c", "echo ready; read line\n"+script), t: t}
	a.cmd.Stdout = nil
	var err error
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.out = bufio.NewReader(out)
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.says("ready")
	return a
}

// says wants the script to say a line.
func (a *attacker) says(want string) {
	a.t.Helper()
	if line, err := a.out.ReadString('\n'); line != want+"\n" {
		a.t.Fatalf("the attacker says %q, %v; want %q\n%s", line, err, want, a.stderr.String())
	}
}

// tell writes a line to the script.
func (a *attacker) tell() {
	a.t.Helper()
	if _, err := io.WriteString(a.in, "go\n"); err != nil {
		a.t.Fatal(err)
	}
}

// end closes the script's input, and returns what it still said and its result.
func (a *attacker) end() (said string, got *result) {
	a.t.Helper()
	a.in.Close()
	said = rest(a.t, a.out)
	return said, a.wait()
}

// peakMemory returns the most memory that an agent had resident so far, in bytes.
func (r *running) peakMemory() int {
	r.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	r.t.Fatal("no VmHWM")
	return 0
}

// mapMemory returns what the kernel says that an instance's maps take, in bytes.
func mapMemory(t testing.TB, instance string) int {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(pinsDir, instance, "gen_*", "map_*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no maps: %v", err)
	}
	total := 0
	for _, path := range paths {
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			t.Fatal(err)
		}
		bytes, ok := info.Memlock()
		if !ok {
			t.Fatalf("the kernel does not say how large %s is", path)
		}
		total += int(bytes)
	}
	return total
}
