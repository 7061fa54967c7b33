package datapath

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crowd is a sandbox full of programs that start others, connect and end, until stop.
type crowd struct {
	*fixture
	stopFile string
	accepted chan net.Conn
	nobodys  int // connections that were taken and had no origin
}

// newCrowd starts it: a third each connects, has children, or waits.
func newCrowd(t *testing.T, cfg Config, n int, add func(Sandbox) error) *crowd {
	t.Helper()
	c := &crowd{stopFile: filepath.Join(t.TempDir(), "stop"), accepted: make(chan net.Conn, 256)}
	sh, err := exec.LookPath("sh") // by its name, which busybox goes by
	if err != nil {
		t.Fatal(err)
	}
	script := `exec 2>/dev/null # where the shell tells of those that are killed
	for i in $(seq ` + fmt.Sprint(n) + `); do
		` + self(t) + ` probe until=` + c.stopFile + `,tcp=` + dest + ` &
		(while [ ! -e ` + c.stopFile + ` ]; do sleep 0.05; done) &
		(while [ ! -e ` + c.stopFile + ` ]; do (sh -c "sleep 0.1; exec sleep 0.1") & sleep 0.2; done; wait) &
	done; wait`
	c.fixture = makeSandbox(t, cfg.Parent, started{argv: []string{sh, "-c", script}}, add)
	t.Cleanup(func() { // of a test that failed: they would keep the launcher's output open
		_ = os.WriteFile(filepath.Join(c.cgroup, "cgroup.kill"), []byte("1"), 0)
	})
	go func() {
		for {
			conn, err := c.capture4.Accept()
			if err != nil {
				close(c.accepted)
				return
			}
			c.accepted <- conn
		}
	}()
	c.start()
	if !waitUntil(func() bool { return c.processes() > 4*n }) { // each of these has a child or more
		t.Fatalf("%d processes", c.processes())
	}
	return c
}

// processes returns how many there are.
func (c *crowd) processes() int {
	text, err := os.ReadFile(filepath.Join(c.cgroup, "cgroup.procs"))
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}

// takeAll takes every connection: if it is anybody's, then the program's that connects.
func (c *crowd) takeAll() {
	origins := c.dp.Origins(c.cookie)
	for conn := range c.accepted {
		origin, err := origins.Take(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
		conn.Close()
		if errors.Is(err, ErrNotFound) {
			c.nobodys++ // it is closed
			continue
		}
		if err != nil {
			c.t.Error(err)
			continue
		}
		e, err := c.dp.ReadExec(origin.Exec)
		if err != nil || e.Path != self(c.t) || origin.Destination.String() != dest || len(e.Ancestors) != 1 {
			c.t.Errorf("a connection to %v of %+v, %v", origin.Destination, e, err)
		}
		if err := c.dp.DropExec(origin.Exec); err != nil {
			c.t.Error(err)
		}
	}
}

// stop ends all programs and returns what connects came to.
func (c *crowd) stop() map[string]int {
	c.t.Helper()
	if err := os.WriteFile(c.stopFile, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	outcomes := map[string]int{}
	for _, line := range c.results() {
		times, outcome, _ := strings.Cut(line, "*")
		n, err := strconv.Atoi(times)
		if err != nil {
			c.t.Fatalf("program said %q", line)
		}
		outcomes[outcome] += n
	}
	c.capture4.Close()
	return outcomes
}

// waitUntil waits for something that may be over soon, and says whether it was.
func waitUntil(ok func() bool) bool {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if ok() {
			return true
		}
		time.Sleep(100 * time.Microsecond)
	}
	return false
}

// killSome kills programs of the crowd as soon as it is frozen, and then is done.
func (c *crowd) killSome(cfg Config, n int) {
	if !waitUntil(func() bool { return frozen(c.t, cfg) }) {
		return
	}
	time.Sleep(30 * time.Millisecond) // into it
	text, err := os.ReadFile(filepath.Join(c.cgroup, "cgroup.procs"))
	if err != nil {
		c.t.Error(err)
		return
	}
	for _, pid := range strings.Fields(string(text)) {
		id, err := strconv.Atoi(pid)
		if err != nil || n == 0 || id == c.launcher.Process.Pid {
			continue
		}
		if comm, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil && string(comm) == "sleep\n" {
			_ = unix.Kill(id, unix.SIGKILL)
			n--
		}
	}
}

// checkOutcomes: every connect went to the agent, or failed.
func (c *crowd) checkOutcomes(outcomes map[string]int) {
	c.t.Helper()
	for outcome, n := range outcomes {
		switch outcome {
		case "peer " + dest, fmt.Sprint("peer 127.0.0.1:", capturePort), "connection refused", "operation not permitted":
		default:
			c.t.Errorf("%d connects: %s", n, outcome)
		}
	}
}

// drain waits until all programs have ended, and nothing of them is left but what was
// never accepted, which expires.
func (c *crowd) drain() {
	c.t.Helper()
	if !waitUntil(func() bool { return c.stats().Tasks == 0 }) {
		c.t.Errorf("still %+v", c.stats())
	}
	if _, err := c.dp.ExpireOrigins(0); err != nil {
		c.t.Error(err)
	}
	c.waitForNothing()
}
