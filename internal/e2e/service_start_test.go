package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

const pinDir = "/sys/fs/bpf/ringfence"

// created watches directories, and tells in which order names were made in them.
type created struct {
	fd   int
	seen []string
}

func watchCreated(t *testing.T, dirs ...string) *created {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
			t.Fatal(err)
		}
	}
	return &created{fd: fd}
}

// names returns those that were made so far, each at its first time.
func (c *created) names(t *testing.T) []string {
	t.Helper()
	buffer := make([]byte, 64<<10)
	for {
		n, err := unix.Read(c.fd, buffer)
		if err == unix.EAGAIN {
			return c.seen
		}
		if err != nil {
			t.Fatal(err)
		}
		for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			length := binary.NativeEndian.Uint32(rest[12:])
			name := string(bytes.TrimRight(rest[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+length], "\x00"))
			if !slices.Contains(c.seen, name) {
				c.seen = append(c.seen, name)
			}
			rest = rest[unix.SizeofInotifyEvent+length:]
		}
	}
}

// The start has one order: hooks, then SSH, then the API. Nobody can ask for anything
// before all of it stands.
func TestServiceStartOrder(t *testing.T) {
	f := newFixture(t)
	s := f.prepareService()
	made := watchCreated(t, pinDir, s.run)
	t.Cleanup(s.end)
	for _, start := range []string{"first", "with a sandbox"} {
		s.start()
		var order []string
		for _, name := range made.names(t) {
			if slices.Contains([]string{s.instance, filepath.Base(s.ssh), filepath.Base(s.socket)}, name) {
				order = append(order, name)
			}
		}
		want := []string{s.instance, filepath.Base(s.ssh), filepath.Base(s.socket)}
		if start != "first" {
			want = want[1:] // the hooks are there already
		}
		if !slices.Equal(order, want) {
			t.Errorf("%s start: made %q, want %q", start, order, want)
		}
		// What is adopted or made of sandboxes is not to be seen from outside.
		stages := s.stages()
		if !slices.Equal(stages, []string{"state", "hooks", "sandboxes", "ssh", "api"}) {
			t.Errorf("%s start: stages %q", start, stages)
		}
		if start == "first" {
			s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, "/usr/bin/curl")))
			if err := s.stop(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			s.log.reset()
			made.names(t)
			made.seen = nil
		}
	}
}

// stages are those that the agent says it has started.
func (s *service) stages() (names []string) {
	for line := range strings.Lines(s.log.String()) {
		if _, after, ok := strings.Cut(line, " msg=started stage="); ok {
			name, _, _ := strings.Cut(after, " ")
			names = append(names, name)
		}
	}
	return names
}

// A service manager is told once the API is served, and when the stop begins.
func TestServiceNotifies(t *testing.T) {
	f := newFixture(t)
	s := f.prepareService()
	path := filepath.Join(s.run, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	told := func() string {
		t.Helper()
		message := make([]byte, 4096)
		if err := manager.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := manager.Read(message)
		if err != nil {
			t.Fatalf("%v\n%s", err, s.log)
		}
		return string(message[:n])
	}
	s.environ = []string{"NOTIFY_SOCKET=" + path}
	t.Cleanup(s.end)
	s.launch()
	if got := told(); got != "READY=1\nSTATUS=0 sandboxes, 0 of them adopted" {
		t.Errorf("told %q", got)
	}
	if !s.serves() {
		t.Fatal("it is not served when the manager is told")
	}
	s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, "/usr/bin/curl")))
	if out, _, _ := s.exec("one", "env | grep NOTIFY"); out != "" {
		t.Errorf("in the sandbox: %s", out)
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if got := told(); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
	s.launch()
	if got := told(); got != "READY=1\nSTATUS=1 sandboxes, 1 of them adopted" {
		t.Errorf("told %q", got)
	}
}

// A start that fails says why and what to do, and leaves nothing behind, not even for
// a moment what stands later in the order.
func TestServiceStartFails(t *testing.T) {
	testenv.Require(t)
	f := newFixture(t)
	other := f.newService("--ssh-listen", "127.0.0.1:2223")
	unsafe := t.TempDir()
	if err := os.Chmod(unsafe, 0o777); err != nil {
		t.Fatal(err)
	}
	taken := f.takePort(t)
	defer taken.Close()
	free := []string{"--ssh-listen", "off"}
	tests := []struct {
		name    string
		flags   []string
		prepare func(*service)
		stages  string // that were started
		says    string
		hint    string
	}{
		{"SSH address in use", nil, nil, "state hooks sandboxes", "start ssh: listen tcp 127.0.0.1:2222: bind: address already in use", "ss -ltnp tells who listens there"},
		{"API directory of others", append(free, "--socket", unsafe+"/agent.sock"), nil, "state hooks sandboxes ssh",
			"start api: others than root can put a socket into " + unsafe, "give the agent a directory of its own"},
		{"API of another agent", append(free, "--socket", other.socket), nil, "state hooks sandboxes ssh",
			"start api: another agent is serving on " + other.socket, "stop it first"},
		{"SSH socket of another agent", append(free, "--ssh-socket", other.ssh), nil, "state hooks sandboxes",
			"start ssh: another agent is serving on " + other.ssh, "stop it first"},
		{"SSH socket that is a file", append(free, "--ssh-socket", f.file("ssh.sock", "kept", 0o600)), nil, "state hooks sandboxes",
			"ssh.sock exists and is no socket", "remove it"},
		{"the same instance", append(free, "--instance", other.instance), nil, "state",
			fmt.Sprintf("start hooks: instance %q is another agent's (process %d)", other.instance, other.pid()), "stop that one first"},
		{"no instance name", append(free, "--instance", "Agent"), nil, "state", `start hooks: claim instance "Agent": want up to 32 lower case letters`, ""},
		{"state of another agent", append(free, "--state-dir", other.state), nil, "", "start state: state in " + other.state + ": another agent uses it", "stop it first"},
		{"state of another user", free, func(s *service) { s.makeState(0o700, 65534) }, "", "not root's alone: it is uid 65534's", "chown 0 "},
		{"state that others read", free, func(s *service) { s.makeState(0o755, 0) }, "", "not root's alone: its mode is 0755", "chmod 700 "},
		{"a policy that does not load", append(free, "--policy", f.policy("  bad: {endpoints: []}\n")), nil, "", "policy.yaml:", "ringfence policy check"},
		{"no such setting", append(free, "--config", f.file("bad.yaml", "ssh-listne: off\n", 0o600)), nil, "", `bad.yaml:1: there is no setting "ssh-listne"`, "did you mean ssh-listen?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := f.prepareService(tt.flags...)
			if tt.prepare != nil {
				tt.prepare(s)
			}
			made := watchCreated(t, s.run)
			s.launch()
			if err := s.ended(); err == nil || s.cmd.ProcessState.ExitCode() != 125 {
				t.Errorf("ended: %v", err)
			}
			log := s.log.String()
			if !strings.Contains(log, tt.says) || !regexp.MustCompile("(?m)^hint: .*"+regexp.QuoteMeta(tt.hint)).MatchString(log) && tt.hint != "" {
				t.Errorf("want %q and the hint %q in\n%s", tt.says, tt.hint, log)
			}
			if got := strings.Join(s.stages(), " "); got != tt.stages {
				t.Errorf("started %q, want %q", got, tt.stages)
			}
			for _, name := range made.names(t) {
				if name == filepath.Base(s.socket) || name == filepath.Base(s.ssh) && !strings.HasSuffix(tt.stages, "ssh") && tt.name != "SSH address in use" {
					t.Errorf("%s was there", name)
				}
			}
			s.leavesNothing(t)
			if !other.serves() {
				t.Error("the other agent serves no more")
			}
		})
	}
}

// takePort listens where an agent of the fixture would serve SSH.
func (f *fixture) takePort(t *testing.T) net.Listener {
	t.Helper()
	var taken net.Listener
	err := f.env.Do(func() (err error) {
		taken, err = net.Listen("tcp", "127.0.0.1:2222")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

// ended waits for the end of an agent that cannot start, and returns how it ended.
func (s *service) ended() error {
	s.t.Helper()
	select {
	case err := <-s.exited:
		return err
	case <-time.After(30 * time.Second):
		_ = syscall.Kill(s.pid(), syscall.SIGQUIT) // it tells where it is
		s.t.Fatalf("it does not end: %v\n%s", <-s.exited, s.log)
		return nil
	}
}

func (s *service) makeState(mode os.FileMode, uid int) {
	s.t.Helper()
	if err := os.Mkdir(s.state, mode); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chown(s.state, uid, uid); err != nil {
		s.t.Fatal(err)
	}
}

// leavesNothing looks for parts of an instance that does not run.
func (s *service) leavesNothing(t *testing.T) {
	t.Helper()
	for _, path := range []string{s.socket, s.ssh, filepath.Join(pinDir, s.instance), filepath.Join("/run/ringfence", s.instance), filepath.Join(cgroupsDir(t), s.instance)} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// Where there are sandboxes a start that fails leaves them as they are: they run, they
// are fenced, and the next start adopts them.
func TestServiceStartFailsWithSandboxes(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	s := f.newService()
	s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl"))))
	s.detach("one", loop)
	s.awaitCounts([]string{"one"}, 1)
	pid, _, _ := s.exec("one", "pgrep -o -f 'ok=0 failed'")
	before := s.identities()
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	taken := f.takePort(t)
	s.launch()
	if err := s.ended(); err == nil || !strings.Contains(s.log.String(), "bind: address already in use\nhint: ") {
		t.Errorf("%v\n%s", err, s.log)
	}
	if _, err := os.Lstat(s.socket); !os.IsNotExist(err) {
		t.Errorf("there is an API: %v", err)
	}
	arrived := len(f.env.Requests())
	s.awaitFailures(3)
	if now := len(f.env.Requests()); now != arrived {
		t.Errorf("%d requests arrived without an agent", now-arrived)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	s.start()
	if status := s.status(); status.GetAdopted() != 1 || status.GetHooks() != "adopted" {
		t.Errorf("status %v", status)
	}
	if now, _, _ := s.exec("one", "pgrep -o -f 'ok=0 failed'"); now != pid {
		t.Errorf("the loop was process %q and is %q", pid, now)
	}
	if after := s.identities(); after != before {
		t.Errorf("sandboxes were\n%s\nand are\n%s", before, after)
	}
	s.awaitCounts([]string{"one"}, s.counts([]string{"one"})+2)
}

// awaitFailures waits until the loop of the only sandbox has failed some more times. No
// agent runs that could be asked.
func (s *service) awaitFailures(more int) {
	s.t.Helper()
	failures := func() (failed int) {
		paths, err := filepath.Glob(filepath.Join(cgroupsDir(s.t), s.instance, "*", "cgroup.procs"))
		if err != nil || len(paths) != 1 {
			s.t.Fatalf("cgroups %q, %v", paths, err)
		}
		text, err := os.ReadFile(paths[0])
		if err != nil {
			s.t.Fatal(err)
		}
		pid, _, _ := strings.Cut(string(text), "\n")
		count, err := os.ReadFile(filepath.Join("/proc", pid, "root/tmp/count"))
		if err != nil {
			s.t.Fatal(err)
		}
		var ok int
		if _, err := fmt.Sscan(string(count), &ok, &failed); err != nil {
			s.t.Fatal(err)
		}
		return failed
	}
	deadline := time.Now().Add(time.Minute)
	for begin := failures(); failures() < begin+more; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("the loop does not go on")
		}
	}
}
