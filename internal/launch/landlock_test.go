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
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/netns"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/testenv"
)

// The rights of each version, as the kernel's documentation numbers them.
func TestRightsOfEachVersion(t *testing.T) {
	for abi, want := range map[int]accessRights{
		1: 1<<13 - 1, 2: 1<<14 - 1, 3: 1<<15 - 1, 4: 1<<15 - 1, 5: 1<<16 - 1, 6: 1<<16 - 1, 8: 1<<16 - 1, 9: 1<<17 - 1, 20: 1<<17 - 1,
	} {
		if got := fileRightsOf(abi); got != want {
			t.Errorf("version %d: %#x, want %#x", abi, got, want)
		}
	}
	if got := len(missingRights(1)); got != 2 {
		t.Errorf("version 1 lacks %d", got)
	}
	if got := missingRights(abiTruncate); got != nil {
		t.Errorf("version %d lacks %q", abiTruncate, got)
	}
	if writeRights&(unix.LANDLOCK_ACCESS_FS_MAKE_CHAR|unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK|unix.LANDLOCK_ACCESS_FS_IOCTL_DEV) != 0 {
		t.Error("devices can be made, or used")
	}
}

// stranger runs a program beside a sandbox: in its pid and network namespace and
// as its user, but not started by its spawner. It says a line when it is ready.
func stranger(t *testing.T, n *Namespaces, ns *netns.Handle, argv ...string) (pid string) {
	t.Helper()
	argv = append([]string{
		"--pid=/proc/self/fd/3", "--net=/proc/self/fd/4", "-S", strconv.Itoa(testUID), "-G", strconv.Itoa(testUID), "--",
	}, argv...)
	cmd := exec.CommandContext(t.Context(), "nsenter", argv...)
	cmd.ExtraFiles = []*os.File{n.pid, ns.File()}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close(); _ = cmd.Wait() }) // it ends with the pid namespace
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// All commands of a sandbox are one domain, and none can signal out of it, or
// connect to an abstract socket: also where the namespaces would let it.
func TestScopes(t *testing.T) {
	testenv.RequireLandlock(t, abiScopes)
	dir := openTree(t)
	var config Config
	n := start(t, visible(dir), func(c *Config) { config = *c })
	if err := config.Netns.SetupLoopback(nil, nil); err != nil {
		t.Fatal(err)
	}
	outside := stranger(t, n, config.Netns, dir+"/probe", "probe-listen", "stranger")

	first := command(dir+"/probe", "probe-listen", "first")
	r, w := pipe(t)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	first.Stdio = [3]*os.File{null, w, null}
	p, err := n.Exec(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, pid, socket string
		want              string
	}{
		{"a stranger", outside, "stranger", "signal: operation not permitted, connect: operation not permitted"},
		{"another command", strings.TrimSpace(inside), "first", "signal: <nil>, connect: <nil>"},
	} {
		if r := runIn(t, n, command(dir+"/probe", "probe-reach", tt.pid, tt.socket)); strings.TrimSpace(r.out) != tt.want {
			t.Errorf("%s: %q, want %q (%s)", tt.name, r.out, tt.want, r.err)
		}
	}
	if r := runIn(t, n, command("sh", "-c", "kill -KILL "+inside)); r.status.Code != 0 {
		t.Errorf("kill another command: %+v", r)
	}
	if status, err := p.Wait(t.Context()); err != nil || status.Signal != unix.SIGKILL {
		t.Errorf("it ended with %+v, %v", status, err)
	}
}

// probeListen listens on an abstract socket, prints its pid and waits.
func probeListen(args []string) int {
	l, err := net.Listen("unix", "@"+args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(os.Getpid())
	for {
		conn, err := l.Accept()
		if err != nil {
			return 1
		}
		_ = conn.Close()
	}
}

// probeReach looks whether it may signal a process, and connect to a socket.
func probeReach(args []string) int {
	pid, _ := strconv.Atoi(args[0])
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + args[1]})
	}
	fmt.Printf("signal: %v, connect: %v\n", unix.Kill(pid, 0), err)
	return 0
}

// A kernel without Landlock: what is required does not start, and the rest runs
// with a warning.
func TestWithoutLandlock(t *testing.T) {
	dir := openTree(t, "file")
	g := testGroup(t)
	out, err := exec.Command(dir+"/probe", "probe-without-landlock", g.Path(), dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got withoutLandlock
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(got.Required, "no Landlock") || !strings.Contains(got.Hint, "best_effort") {
		t.Errorf("required: %q, hint %q", got.Required, got.Hint)
	}
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "files are not restricted") {
		t.Errorf("best effort: warnings %q", got.Warnings)
	}
	if got.Failed != "" || got.Code != 0 {
		t.Errorf("best effort: %s, status %d", got.Failed, got.Code)
	}
}

type withoutLandlock struct {
	Required, Hint string
	Warnings       []string
	Failed         string
	Code           int
}

// probeWithoutLandlock is an agent on a kernel that does not know Landlock's calls.
func probeWithoutLandlock(args []string) int {
	got, err := startWithoutLandlock(args[0], args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(got)
	return 0
}

func startWithoutLandlock(group, dir string) (got withoutLandlock, err error) {
	filter := []unix.SockFilter{
		load(numberOffset)[0],
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_LANDLOCK_CREATE_RULESET, Jf: 1},
		refuse(unix.ENOSYS)[0],
		give(unix.SECCOMP_RET_ALLOW)[0],
	}
	if err := install(filter, unix.SECCOMP_FILTER_FLAG_TSYNC); err != nil {
		return got, err
	}
	g, err := cgroup.Open(group)
	if err != nil {
		return got, err
	}
	ns, err := netns.New()
	if err != nil {
		return got, err
	}
	config := Config{
		Name: "box", Netns: ns, Cgroup: g.File(), Visible: []string{dir}, LandlockRequired: true,
		User: rootfs.User{UID: testUID, GID: testUID}, Files: &Files{ReadOnly: []string{"/usr"}},
	}
	_, err = Start(context.Background(), config)
	var step *StepError
	if errors.As(err, &step) {
		got.Required, got.Hint = step.Error(), step.Hint
	}
	config.LandlockRequired = false
	n, err := Start(context.Background(), config)
	if err != nil {
		return got, err
	}
	defer n.Close()
	got.Warnings = n.Warnings()
	c := command("cat", dir+"/file")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return got, err
	}
	c.Stdio = [3]*os.File{null, null, null}
	p, err := n.Exec(context.Background(), c)
	if err != nil {
		got.Failed = err.Error()
		return got, nil
	}
	status, err := p.Wait(context.Background())
	got.Code = status.ExitCode()
	return got, err
}
