package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/netns"
)

// TestMain is what the agent's main does: the hidden subcommands first. The test
// program also is what tests run inside a sandbox.
func TestMain(m *testing.M) {
	Main(os.Args[1:])
	if len(os.Args) > 1 {
		if probe, ok := probes()[os.Args[1]]; ok {
			os.Exit(probe(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

const testTimeout = 30 * time.Second

// testGroup makes a cgroup that ends with the test.
func testGroup(t testing.TB) *cgroup.Group {
	t.Helper()
	root, err := cgroup.Find()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("rf-launch-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	g, err := cgroup.Create(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(context.Background()), g.Remove(), g.Close()); err != nil {
			t.Error(err)
		}
	})
	return g
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skip: root is needed to make namespaces and cgroups")
	}
}

// start starts namespaces that end with the test.
func start(t testing.TB, change ...func(*Config)) *Namespaces {
	t.Helper()
	n, err := Start(t.Context(), newConfig(t, change...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// newConfig returns a configuration whose namespace and cgroup end with the test.
func newConfig(t testing.TB, change ...func(*Config)) Config {
	t.Helper()
	needRoot(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	config := Config{Name: "box", Netns: ns, Cgroup: testGroup(t).File()}
	for _, c := range change {
		c(&config)
	}
	return config
}

// probeDir holds a copy of the test program that every user may run, and is to be
// made visible.
func probeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rf-launch-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	program, err := os.OpenFile(filepath.Join(dir, "probe"), os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(program, self); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(program.Close(), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func visible(dirs ...string) func(*Config) {
	return func(c *Config) { c.Visible = append(c.Visible, dirs...) }
}

const testUID = reservedBase + 7

// command is argv as the test's user, in the root directory.
func command(argv ...string) Command {
	return Command{Argv: argv, Env: []string{"PATH=" + defaultPath}, Dir: "/", UID: testUID, GID: testUID}
}

// result is what a command left.
type result struct {
	out, err string
	status   Status
}

// runIn runs a command to its end with pipes for streams.
func runIn(t testing.TB, n *Namespaces, c Command) result {
	t.Helper()
	r, err := tryIn(t, n, c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryIn(t testing.TB, n *Namespaces, c Command) (result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	outR, outW := pipe(t)
	errR, errW := pipe(t)
	if c.Stdio == [3]*os.File{} {
		c.Stdio = [3]*os.File{null, outW, errW}
	}
	p, err := n.Exec(ctx, c)
	outW.Close()
	errW.Close()
	if err != nil {
		return result{}, err
	}
	stderr := make(chan string)
	go func() { stderr <- readAll(errR) }()
	r := result{out: readAll(outR), err: <-stderr}
	r.status, err = p.Wait(ctx)
	return r, err
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func readAll(f *os.File) string {
	var buf bytes.Buffer
	_, _ = io.Copy(&buf, f)
	return buf.String()
}

// statusField returns a field of /proc/PID/status.
func statusField(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
