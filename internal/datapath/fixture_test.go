package datapath

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/testenv"
)

// The ports of the listeners that the fixture makes inside its sandbox.
const (
	capturePort = 15001
	dnsPort     = 15053
	proxyPort   = 15128
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "launcher":
			launcher()
		case "hold": // its namespaces, until the input ends
			_, _ = io.Copy(io.Discard, os.Stdin)
			return
		case "probe":
			probe(os.Args[2:])
		case "predecessor":
			predecessor(os.Args[2])
		}
	}
	os.Exit(m.Run())
}

// fixture is one loaded datapath with one sandbox: a cgroup and namespaces that
// a launcher made, as the real one does, and listeners that only accept.
type fixture struct {
	t        testing.TB
	dp       *Datapath
	cgroup   string
	cgroupID uint64
	cookie   uint64
	launcher *exec.Cmd
	goAhead  *os.File
	output   output
	capture4 net.Listener
	capture6 net.Listener
	proxy4   net.Listener
	dns4     net.PacketConn
	dns6     net.PacketConn
}

// output is what a program printed so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func cgroup2Root(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	t.Fatal("cgroup2 is not mounted")
	return ""
}

func makeCgroup(t testing.TB, path string) uint64 {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
		for range 100 {
			if err := os.Remove(path); err == nil || errors.Is(err, os.ErrNotExist) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("cgroup %s was not removed", path)
	})
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// newParent makes a parent cgroup, and says how to attach to it.
func newParent(t testing.TB) Config {
	t.Helper()
	testenv.Require(t, "ip")
	name := fmt.Sprintf("ringfence-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	parent := filepath.Join(cgroup2Root(t), name)
	return Config{
		Parent: parent, ParentID: makeCgroup(t, parent), PinDir: filepath.Join(bpffsRoot, name),
		MaxSandboxes: 8,
	}
}

func loadDatapath(t testing.TB) (*Datapath, string) {
	t.Helper()
	cfg := newParent(t)
	dp, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dp.Remove(); err != nil {
			t.Error(err)
		}
	})
	return dp, cfg.Parent
}

// newFixture starts argv as a launcher's program in a new sandbox: it runs once
// start is called.
func newFixture(t testing.TB, argv ...string) *fixture {
	t.Helper()
	dp, parent := loadDatapath(t)
	return newSandbox(t, dp, parent, argv...)
}

func newSandbox(t testing.TB, dp *Datapath, parent string, argv ...string) *fixture {
	t.Helper()
	return newSandboxOf(t, dp, parent, started{argv: argv})
}

// started is how a launcher starts its program: as root, in its own environment,
// without input, where nothing else is said.
type started struct {
	argv, env []string
	stdin     io.Reader
	user      *rootfs.User
}

func newSandboxOf(t testing.TB, dp *Datapath, parent string, p started) *fixture {
	t.Helper()
	f := makeSandbox(t, parent, p, dp.AddSandbox)
	f.dp = dp
	t.Cleanup(func() {
		if err := dp.RemoveSandbox(f.cgroupID); err != nil {
			t.Error(err)
		}
	})
	return f
}

// makeSandbox makes a sandbox that add makes known to the hooks.
func makeSandbox(t testing.TB, parent string, p started, add func(Sandbox) error) *fixture {
	t.Helper()
	f := &fixture{t: t, cgroup: filepath.Join(parent, fmt.Sprint("sandbox-", time.Now().UnixNano()))}
	f.cgroupID = makeCgroup(t, f.cgroup)

	fromChild, tellParent := pipe(t)
	waitForGo, goAhead := pipe(t)
	dir, err := os.Open(f.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	f.goAhead = goAhead
	f.launcher = exec.Command("/proc/self/exe", append([]string{"launcher"}, p.argv...)...)
	f.launcher.Env = append(os.Environ(), p.env...)
	if p.user != nil {
		f.launcher.Env = append(f.launcher.Env, launchUser+"="+asJSON(p.user))
	}
	f.launcher.ExtraFiles = []*os.File{tellParent, waitForGo}
	f.launcher.Stdin, f.launcher.Stdout, f.launcher.Stderr = p.stdin, &f.output, os.Stderr
	f.launcher.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(dir.Fd()),
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
	}
	if err := f.launcher.Start(); err != nil {
		t.Fatal(err)
	}
	tellParent.Close()
	waitForGo.Close()
	t.Cleanup(func() { goAhead.Close(); _ = f.launcher.Process.Kill(); _ = f.launcher.Wait() })

	var mountNS uint32
	line, err := bufio.NewReader(fromChild).ReadString('\n')
	if err != nil {
		t.Fatalf("launcher: %v", err)
	}
	fmt.Sscan(line, &mountNS, &f.cookie)
	f.listen()
	var userNS unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &userNS); err != nil {
		t.Fatal(err)
	}
	err = add(Sandbox{
		CgroupID: f.cgroupID, NetnsCookie: f.cookie, MountNS: mountNS, UserNS: uint32(userNS.Ino),
		Capture: capturePort, DNS: dnsPort, Proxy: proxyPort,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
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

// addLoopback makes the loopback of the calling thread's network namespace. Its
// programs run outside the sandbox's cgroup, where no hook counts their sockets.
func addLoopback() error {
	for _, args := range []string{"link set lo up", "-6 route add local fd52:696e:67fe:53::/64 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return nil
}

// inside does something in the launcher's network namespace.
func (f *fixture) inside(do func() error) {
	f.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with it
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", f.launcher.Process.Pid))
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		f.t.Fatal(err)
	}
}

// listen opens the agent's listeners.
func (f *fixture) listen() {
	f.t.Helper()
	f.inside(func() error {
		if err := addLoopback(); err != nil {
			return err
		}
		var errs [5]error
		f.capture4, errs[0] = net.Listen("tcp4", fmt.Sprint("127.0.0.1:", capturePort))
		f.capture6, errs[1] = net.Listen("tcp6", fmt.Sprint("[::1]:", capturePort))
		f.proxy4, errs[2] = net.Listen("tcp4", fmt.Sprint("127.0.0.1:", proxyPort))
		f.dns4, errs[3] = listenDNS("udp4", "0.0.0.0", unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IP_FREEBIND)
		f.dns6, errs[4] = listenDNS("udp6", "[::]", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, unix.IPV6_FREEBIND)
		return errors.Join(errs[:]...)
	})
	f.t.Cleanup(func() {
		f.capture4.Close()
		f.capture6.Close()
		f.proxy4.Close()
		f.dns4.Close()
		f.dns6.Close()
	})
}

// relisten opens a capture listener again that was closed.
func (f *fixture) relisten(address string) {
	f.t.Helper()
	f.inside(func() (err error) {
		f.capture4, err = net.Listen("tcp4", address)
		return err
	})
}

func listenDNS(network, host string, level int, options ...int) (net.PacketConn, error) {
	control := func(_, _ string, c syscall.RawConn) error {
		var errs []error
		err := c.Control(func(fd uintptr) {
			for _, option := range options {
				errs = append(errs, unix.SetsockoptInt(int(fd), level, option, 1))
			}
		})
		return errors.Join(append(errs, err)...)
	}
	lc := net.ListenConfig{Control: control}
	return lc.ListenPacket(context.Background(), network, fmt.Sprint(host, ":", dnsPort))
}

// start lets the program run.
func (f *fixture) start() { f.goAhead.Close() }

// wait ends with the program and returns what it printed.
func (f *fixture) wait() string {
	f.t.Helper()
	done := make(chan error, 1)
	go func() { done <- f.launcher.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			f.t.Fatalf("program: %v\n%s", err, f.output.String())
		}
	case <-time.After(20 * time.Second):
		f.t.Fatalf("program did not end\n%s", f.output.String())
	}
	return f.output.String()
}

// waitForSteps waits until the program has printed what came of n steps.
func (f *fixture) waitForSteps(n int) {
	f.t.Helper()
	waitFor(f.t, func() bool { return strings.Count(f.output.String(), "\n") >= n }, func() any { return f.output.String() })
}

// results returns what the probe printed: one line for each step.
func (f *fixture) results() []string {
	f.t.Helper()
	return strings.Split(strings.TrimSpace(f.wait()), "\n")
}

// take accepts one connection and returns its exec, which stays until drop, and
// what it asked for.
func (f *fixture) take(l net.Listener) (flow.Exec, netip.AddrPort) {
	f.t.Helper()
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := l.Accept()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	origin, err := f.dp.Origins(f.cookie).Take(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
	if err != nil {
		f.t.Fatal(err)
	}
	e, err := f.dp.ReadExec(origin.Exec)
	if err != nil {
		f.t.Fatal(err)
	}
	return e, origin.Destination
}

// drop gives back what take kept.
func (f *fixture) drop(e flow.Exec) {
	f.t.Helper()
	if err := f.dp.DropExec(e.Exec); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) stats() Stats {
	f.t.Helper()
	s, err := f.dp.Stats(f.cgroupID)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// launcher is the child between clone and the program's exec, as the real one
// is: in the cgroup and the new namespaces, but not yet the sandbox's program.
func launcher() {
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	var st unix.Stat_t
	must(unix.Stat("/proc/self/ns/mnt", &st))
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(err)
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	must(err)
	unix.Close(s)
	tell := os.NewFile(3, "tell")
	fmt.Fprintln(tell, st.Ino, cookie)
	tell.Close()
	_, _ = os.NewFile(4, "go").Read(make([]byte, 1))
	if text := os.Getenv(launchUser); text != "" {
		must(os.Unsetenv(launchUser))
		become(text)
	}
	must(syscall.Exec(os.Args[2], os.Args[2:], os.Environ()))
}

// launchUser tells the launcher which user starts the program.
const launchUser = "RINGFENCE_TEST_USER"

func become(text string) {
	var user rootfs.User
	must(json.Unmarshal([]byte(text), &user))
	groups := make([]int, len(user.Groups))
	for i, g := range user.Groups {
		groups[i] = int(g)
	}
	must(syscall.Setgroups(groups))
	must(syscall.Setresgid(int(user.GID), int(user.GID), int(user.GID)))
	must(syscall.Setresuid(int(user.UID), int(user.UID), int(user.UID)))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
}

func asJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
