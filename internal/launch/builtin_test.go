package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/netns"
	"github.com/ringfence/ringfence/internal/testenv"
)

// builtins are one process of each program of our own.
func builtins(t *testing.T, n *Namespaces) map[string]*Process {
	t.Helper()
	d, _, err := n.dialer(t.Context(), &DialConfig{UID: testUID, GID: testUID})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*Process{sftpCommand: startSFTP(t, n, "/").process, dialCommand: d.process}
}

// Each thread of a program of our own is the user's, with nothing more than any
// command has, and nobody looks into it.
func TestBuiltinsHaveNothingLeft(t *testing.T) {
	programs, err := filters()
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%d\t", testUID), 4), "\t")
	const none = "0000000000000000"
	want := map[string]string{
		"Uid": id, "Gid": id, "Groups": "", "CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": fmt.Sprint(len(programs)),
	}
	for name, change := range map[string]func(*Config){
		"without files": func(*Config) {},
		"with files":    withFiles([]string{"/usr", "/lib", "/lib64"}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			var config Config
			n := start(t, change, func(c *Config) { config = *c })
			for command, p := range builtins(t, n) {
				proc := fmt.Sprintf("/proc/%d", p.PID)
				threads, err := filepath.Glob(proc + "/task/*/status")
				if err != nil || len(threads) < 2 {
					t.Fatalf("threads %q, %v", threads, err)
				}
				for _, thread := range threads {
					got := map[string]string{}
					text := readFile(t, thread)
					for field := range want {
						got[field] = statusField(text, field)
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s: %s (-want +got):\n%s", command, thread, diff)
					}
				}
				checkBuiltinProc(t, proc, command)
				for ns, number := range map[string]uint64{"mnt": n.MountNS(), "pid": n.PIDNS(), "net": config.Netns.Inode(), "user": n.UserNS()} {
					if got, err := inodeOf(proc + "/ns/" + ns); err != nil || got != number {
						t.Errorf("%s: %s namespace %d, want %d, %v", command, ns, got, number, err)
					}
				}
			}
		})
	}
}

func checkBuiltinProc(t *testing.T, proc, command string) {
	t.Helper()
	if got := readFile(t, proc+"/cmdline"); got != "ringfence\x00"+command+"\x00" {
		t.Errorf("%s: command line %q", command, got)
	}
	if got := readFile(t, proc+"/environ"); got != "" {
		t.Errorf("%s: environment %q", command, got)
	}
	// What is not dumpable has its files in /proc owned by root.
	var st unix.Stat_t
	if err := unix.Stat(proc+"/fd", &st); err != nil || st.Uid != 0 {
		t.Errorf("%s: /proc/PID/fd is user %d's, %v", command, st.Uid, err)
	}
	for limit, want := range map[string]string{"Max core file size": "0 0", "Max open files": fmt.Sprint(builtinFiles, builtinFiles)} {
		for line := range strings.Lines(readFile(t, proc+"/limits")) {
			if rest, ok := strings.CutPrefix(line, limit); ok && strings.Join(strings.Fields(rest)[:2], " ") != want {
				t.Errorf("%s: %s", command, line)
			}
		}
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		link, err := os.Readlink(proc + "/fd/" + fd.Name())
		isOwn := strings.HasPrefix(link, "anon_inode:[event") // of the runtime: epoll, eventfd
		switch fd.Name() {
		case "0", "1", "2":
			isOwn = strings.HasPrefix(link, "pipe:") || link == os.DevNull
		case "3":
			isOwn = strings.HasPrefix(link, "socket:")
		}
		if err == nil && !isOwn { // an error: closed meanwhile
			t.Errorf("%s: descriptor %s is %s", command, fd.Name(), link)
		}
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The hidden subcommands do nothing for anybody but sandbox-exec.
func TestBuiltinAlone(t *testing.T) {
	for _, command := range []string{sftpCommand, dialCommand} {
		outside := exec.CommandContext(t.Context(), "/proc/self/exe", command)
		out, err := outside.CombinedOutput()
		var exit *exec.ExitError
		if os.Getuid() == 0 && !strings.Contains(string(out), "a privilege is left") || !errors.As(err, &exit) || exit.ExitCode() != ExitRingfence {
			t.Errorf("%s: %v, %q", command, err, out)
		}
	}
	dir := probeDir(t)
	n := start(t, visible(dir))
	for _, name := range []string{sftpCommand, dialCommand} {
		r := runIn(t, n, command(dir+"/probe", name))
		if r.status.Code != ExitRingfence || !strings.Contains(r.err, "report ready") {
			t.Errorf("%s inside: %+v", name, r)
		}
	}
}

func TestBadBuiltins(t *testing.T) {
	good := Command{Builtin: BuiltinSFTP, Dir: "/", UID: testUID}
	if _, err := good.order(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Command){
		"unknown":  func(c *Command) { c.Builtin = 99 },
		"negative": func(c *Command) { c.Builtin = -1 },
		"terminal": func(c *Command) { c.Terminal[0] = true },
		"detached": func(c *Command) { c.Detached = true },
		"relative": func(c *Command) { c.Dir = "." },
	} {
		c := good
		change(&c)
		if _, err := c.order(); !errors.Is(err, ErrBadCommand) {
			t.Errorf("%s: %v", name, err)
		}
	}
	root := good
	root.UID = 0
	if _, err := root.order(); !errors.Is(err, ErrRoot) {
		t.Errorf("root: %v", err)
	}
}

// The rule that lets this program run gives no other file, and nothing to write.
func TestOwnProgramIsTheOnlyFile(t *testing.T) {
	testenv.RequireLandlock(t, abiTruncate)
	dir := openTree(t, "file")
	n := start(t, visible(dir), withFiles([]string{"/usr", "/lib", "/lib64"}, nil))
	defer startSFTP(t, n, "/").end(t)
	for _, script := range []string{"cat " + dir + "/file", dir + "/probe probe-exit 0", "echo >> " + dir + "/file", "ls " + dir} {
		if r := runIn(t, n, command("sh", "-c", script)); r.status.Code == 0 {
			t.Errorf("%s: %+v", script, r)
		}
	}
}

// An agent whose file was replaced, as an upgrade does, still starts its own programs,
// under a policy's files too.
func TestBuiltinsOfAReplacedAgent(t *testing.T) {
	testenv.RequireLandlock(t, abiTruncate)
	dir := probeDir(t)
	out, err := exec.CommandContext(t.Context(), dir+"/probe", "probe-replaced", testGroup(t).Path()).CombinedOutput()
	if err != nil || string(out) != "both run\n" {
		t.Errorf("%v, %s", err, out)
	}
}

// probeReplaced is an agent that puts another file in the place of its own, and then
// starts a sandbox with an SFTP server and a dialer in it.
func probeReplaced(args []string) int {
	if err := runReplaced(args[0]); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("both run")
	return 0
}

func runReplaced(group string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(self+".new", []byte("#!/bin/false\n"), 0o755), os.Rename(self+".new", self)); err != nil {
		return err
	}
	g, err := cgroup.Open(group)
	if err != nil {
		return err
	}
	defer g.Close()
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	config := Config{Name: "box", Netns: ns, Cgroup: g.File()}
	withFiles([]string{"/usr", "/lib", "/lib64"}, nil)(&config)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	n, err := Start(ctx, config)
	if err != nil {
		return err
	}
	defer n.Close()
	pipes, err := PipeStdio()
	if err != nil {
		return err
	}
	defer pipes.Close()
	p, err := n.Exec(ctx, Command{Builtin: BuiltinSFTP, Dir: "/", UID: testUID, GID: testUID, Stdio: pipes.Stdio})
	pipes.Started()
	if err != nil {
		return err
	}
	if err := pipes.Stdin.Close(); err != nil {
		return err
	}
	if status, err := p.Wait(ctx); err != nil || status.ExitCode() != 0 {
		return fmt.Errorf("SFTP ended with %+v: %w", status, err)
	}
	_, err = n.Dial(ctx, dialConfig("unix", "/run/no such", 0))
	if !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("dial: %w", err)
	}
	return nil
}

// A session that asks for files without end comes to the bound, and lives on.
func TestSFTPHandlesAreBounded(t *testing.T) {
	dir := ownedDir(t)
	if err := os.WriteFile(dir+"/file", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := startSFTP(t, start(t, visible(dir)), dir)
	opened := 0
	var refused error
	for refused == nil && opened < 2*builtinFiles {
		if _, refused = s.Open(dir + "/file"); refused == nil {
			opened++
		}
	}
	if refused == nil || opened > builtinFiles || opened < builtinFiles/2 {
		t.Errorf("%d files were opened, then %v", opened, refused)
	}
	if _, err := s.Stat(dir + "/file"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if told := s.end(t); len(told) != opened {
		t.Errorf("%d files were told of %d", len(told), opened)
	}
}

// What is no SFTP ends the session, with a status that says so.
func TestSFTPOfSomethingElse(t *testing.T) {
	n := start(t)
	for name, bytes := range map[string]string{
		"text":      "GET / HTTP/1.1\r\n\r\n",
		"too long":  "\xff\xff\xff\xff\x01",
		"unknown":   "\x00\x00\x00\x05\xc8\x00\x00\x00\x01",
		"truncated": "\x00\x00\x00\x05\x03\x00\x00\x00\x01",
	} {
		pipes, err := PipeStdio()
		if err != nil {
			t.Fatal(err)
		}
		defer pipes.Close()
		p, err := n.Exec(t.Context(), Command{Builtin: BuiltinSFTP, Dir: "/", UID: testUID, GID: testUID, Stdio: pipes.Stdio})
		pipes.Started()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pipes.Stdin.WriteString(bytes); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		if status, err := p.Wait(ctx); err != nil || status.Code != ExitRingfence {
			t.Errorf("%s: %+v, %v", name, status, err)
		}
		cancel()
	}
}

// A session that is hung up still tells what it had open.
func TestSFTPHangUp(t *testing.T) {
	dir := ownedDir(t)
	s := startSFTP(t, start(t, visible(dir)), dir)
	f, err := s.Create(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("text")); err != nil {
		t.Fatal(err)
	}
	s.process.HangUp(testTimeout)
	if status := awaitEnd(t, s.process); status.ExitCode() != 0 {
		t.Errorf("%+v", status)
	}
	want := []Transfer{{Op: TransferWrite, Path: dir + "/file", Bytes: 4, Cut: true}}
	if diff := cmp.Diff(want, s.told); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A builtin that gave its socket away does not keep who waits for it.
func TestWaitIsNotKept(t *testing.T) {
	conn, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	other := exec.CommandContext(t.Context(), "true")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{PID: other.Process.Pid, child: newChild(conn, other.Process)}
	told := make(chan Transfer, 1)
	p.follow(conn, &Command{Builtin: BuiltinSFTP, OnTransfer: func(t Transfer) { told <- t }})
	message := []byte(`{"op":"read","path":"L2E=","bytes":1}`)
	if _, err := theirs.Write(message); err != nil {
		t.Fatal(err)
	}
	if status := awaitEnd(t, p); status.Code != 0 {
		t.Errorf("%+v", status)
	}
	if got := <-told; got.Path != "/a" {
		t.Errorf("%+v", got)
	}
	if _, err := theirs.Write(message); !errors.Is(err, unix.EPIPE) {
		t.Errorf("it can still speak: %v", err)
	}
}

func TestSFTPLeavesNothing(t *testing.T) {
	dir := ownedDir(t)
	n := start(t, visible(dir))
	round := func() {
		s := startSFTP(t, n, dir)
		if err := writeOver(s, dir+"/file", "x"); err != nil {
			t.Error(err)
		}
		_ = s.end(t)
		_ = s.Close()
		s.pipes.Close()
	}
	round()
	before := measure(t)
	for range 5 {
		round()
	}
	expectUsage(t, before)
}
