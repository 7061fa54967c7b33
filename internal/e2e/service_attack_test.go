package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// attackPolicy allows next to nothing.
func attackPolicy() string {
	return networkPolicy(allowBlock("allowed", allowedName, []int{443}, "/usr/bin/curl"))
}

// cgroup is the directory of a sandbox's cgroup.
func (s *service) cgroup(name string) string {
	return filepath.Join(cgroupsDir(s.t), s.instance, name)
}

// kill ends all that runs of a sandbox, as a machine's restart would.
func (s *service) kill(name string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.cgroup(name), "cgroup.kill"), []byte("1"), 0); err != nil {
		s.t.Fatal(err)
	}
}

// awaitPhase waits until a sandbox is in a phase.
func (s *service) awaitPhase(name string, phase pb.SandboxStatus_Phase) *pb.Sandbox {
	s.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		sb, err := s.client.Sandboxes.GetSandbox(s.t.Context(), &pb.GetSandboxRequest{Name: name})
		if err != nil {
			s.t.Fatal(api.ErrorOf(err))
		}
		if sb.GetStatus().GetPhase() == phase {
			return sb
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s is %v, and not %v\n%s", name, sb.GetStatus(), phase, s.log)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A sandbox puts a link to the host's services where its working directory was, and
// waits until it is made anew.
func TestAttackLinkForAVisibleDirectory(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	services := s.run + "-services"
	if err := os.Mkdir(services, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(services) })
	if err := os.WriteFile(services+"/word", []byte("the host's"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Not below a directory of which the sandbox has its own: there it could not move
	// what is mounted for it.
	base := "/var/lib/" + s.instance
	t.Cleanup(func() { os.RemoveAll(base) })
	for _, dir := range []string{base, base + "/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	s.create("one", attackPolicy(), func(spec *pb.SandboxSpec) {
		spec.User, spec.Visible, spec.Workdir = "65534", []string{base}, base+"/work"
	})
	look := "cd /; cat " + services + "/word"
	if out, _, status := s.exec("one", look); status == 0 {
		t.Fatalf("seen without more: %q", out)
	}
	if _, errOut, status := s.exec("one", fmt.Sprintf("cd /; mv %s/work %s/old && ln -s %s %s/work", base, base, services, base)); status != 0 {
		t.Fatal(errOut)
	}
	_ = s.stop(syscall.SIGKILL)
	s.kill("one")
	s.start()
	deadline := time.Now().Add(30 * time.Second)
	for {
		sb, err := s.client.Sandboxes.GetSandbox(t.Context(), &pb.GetSandboxRequest{Name: "one"})
		if err != nil {
			t.Fatal(api.ErrorOf(err))
		}
		if phase := sb.GetStatus().GetPhase(); phase == pb.SandboxStatus_FAILED {
			t.Log(sb.GetStatus().GetReason())
			return
		} else if phase == pb.SandboxStatus_READY {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("neither made nor failed")
		}
		time.Sleep(2 * time.Millisecond)
	}
	out, errOut, err := "", "", error(nil)
	out, errOut, _, err = s.tryExec(t.Context(), "one", look)
	if out != "" {
		t.Errorf("the sandbox sees %q", out)
	}
	t.Log(out, errOut, err)
}

// What an agent is spared by the kernel when memory runs out, its sandboxes are not.
func TestAttackMemoryRunsOut(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.pid()), []byte("-900"), 0); err != nil {
		t.Skipf("cannot run here: %v", err)
	}
	s.create("one", attackPolicy())
	for range 2 { // the process that was started ahead, and another
		if out, errOut, _ := s.exec("one", "cat /proc/self/oom_score_adj"); out != "0\n" {
			t.Errorf("a command is spared as much as the agent: %q %s", out, errOut)
		}
	}
}

// Records as large as somebody inside can make them do not hide the others.
func TestAttackRecordsTooLargeToBeTold(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	s.create("one", attackPolicy())
	for range 40 {
		stream, err := s.client.Sandboxes.Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := &pb.ExecStart{Sandbox: "one", Argv: []string{"/bin/true", strings.Repeat("\x01", 30<<10)}}
		if err := stream.Send(&pb.ExecRequest{Message: &pb.ExecRequest_Start{Start: start}}); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := stream.Recv(); err != nil {
				break
			}
		}
	}
	n := 0
	for _, r := range s.records("one") {
		if r.Reason == "api_exec" {
			n++
		}
	}
	if n != 40 {
		t.Errorf("%d records of 40", n)
	}
}

// What is asked for while a sandbox is deleted does not bring it back.
func TestAttackUpdateWhileDeleted(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	s.create("one", attackPolicy())
	deleted := make(chan error, 1)
	go func() {
		_, err := s.client.Sandboxes.DeleteSandbox(t.Context(), &pb.DeleteSandboxRequest{Name: "one"})
		deleted <- err
	}()
	s.awaitPhase("one", pb.SandboxStatus_DELETING)
	_, err := s.client.Sandboxes.UpdateSandbox(t.Context(), &pb.UpdateSandboxRequest{
		Name: "one", Spec: &pb.SandboxSpec{Labels: map[string]string{"a": "b"}}, Fields: []string{"labels"},
	})
	t.Log("update:", api.ErrorOf(err))
	if err := <-deleted; err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	_ = s.stop(syscall.SIGKILL)
	s.start()
	list, err := s.client.Sandboxes.ListSandboxes(t.Context(), &pb.ListSandboxesRequest{})
	if err != nil || len(list.GetSandboxes()) > 0 {
		t.Errorf("the next agent has %v, %v", list.GetSandboxes(), err)
	}
}

// A sandbox that an agent could not adopt does not outlive its deletion.
func TestAttackDeletedBeforeAdopted(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	s.create("one", attackPolicy())
	s.detach("one", "while :; do sleep 1; done")
	init := s.initOf(t, "one")
	_ = s.stop(syscall.SIGKILL)
	if err := syscall.Kill(init, syscall.SIGSTOP); err != nil { // its init answers nobody
		t.Fatal(err)
	}
	s.start()
	if _, err := s.client.Sandboxes.DeleteSandbox(t.Context(), &pb.DeleteSandboxRequest{Name: "one"}); err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	if _, err := os.Stat(s.cgroup("one")); err == nil {
		t.Errorf("it is deleted, and there are processes %v", s.processes(t, "one"))
		_ = syscall.Kill(init, syscall.SIGCONT)
		s.kill("one")
	}
}

// A certificate for a sandbox lets nobody in to a later one of the same name.
func TestAttackCertificateOfADeletedSandbox(t *testing.T) {
	testenv.Require(t, "ssh")
	f := newFixture(t)
	s := f.newService()
	s.create("one", attackPolicy())
	c := s.sshTo(t, "one")
	if out, _ := c.ssh(t, "echo in"); out != "in\n" {
		t.Fatalf("before: %q", out)
	}
	if _, err := s.client.Sandboxes.DeleteSandbox(t.Context(), &pb.DeleteSandboxRequest{Name: "one"}); err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	s.create("one", attackPolicy())
	if out, err := c.command("ssh", "sandbox", "echo in").CombinedOutput(); err == nil || strings.Contains(string(out), "in\n") {
		t.Errorf("into the next sandbox of the name: %q", out)
	}
	if out, _ := s.sshTo(t, "one").ssh(t, "echo in"); out != "in\n" {
		t.Errorf("with a new certificate: %q", out)
	}
}

// takePorts tries all the time to have the ports of the agent's listeners, by every way
// in which a socket gets one, and notes what it got and how often it tried.
const takePorts = `
import os, socket, struct
PORTS = (15001, 15053, 15128)
rounds = 0
kept = []
def note(what):
    with open("/tmp/got", "a") as f:
        f.write(what + "\n")
def bind(family, kind, address, port):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        s.bind((address, port))
        note("bind %s %s %d" % (kind, address, port))
        kept.append(s)
    except OSError:
        s.close()
def picked(kind, port, how):
    s = socket.socket(socket.AF_INET, kind)
    try:
        s.setsockopt(socket.IPPROTO_IP, 51, struct.pack("I", port << 16 | port)) # IP_LOCAL_PORT_RANGE
        if how == "late":
            s.setsockopt(socket.IPPROTO_IP, 24, 1) # IP_BIND_ADDRESS_NO_PORT
            s.bind(("127.0.0.1", 0))
        if how == "listen":
            s.listen(1)
        elif how == "bind":
            s.bind(("", 0))
        else:
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", 9))
        if s.getsockname()[1] in PORTS:
            note("picked %s %s %d" % (kind, how, port))
            kept.append(s)
            return
    except OSError:
        pass
    s.close()
while True:
    for port in PORTS:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for address in ("0.0.0.0", "127.0.0.1", "127.83.0.1", "198.18.0.1"):
                bind(socket.AF_INET, kind, address, port)
            for address in ("::", "::1", "::ffff:127.0.0.1", "fd52:696e:67fe:53::1"):
                bind(socket.AF_INET6, kind, address, port)
            for how in ("bind", "connect", "late") + (("listen",) if kind == socket.SOCK_STREAM else ()):
                picked(kind, port, how)
    rounds += 1
    with open("/tmp/rounds.new", "w") as f:
        f.write("%d\n" % rounds)
    os.rename("/tmp/rounds.new", "/tmp/rounds")
`

// While no agent listens, its ports are not to be had: the next one is not waited for in
// its place.
func TestAttackPortsWhileNoAgentListens(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	s := f.newService()
	s.create("one", networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl"))))
	script := f.file("take.py", takePorts, 0o644)
	s.detach("one", "exec /usr/bin/python3 "+script)
	inside := fmt.Sprintf("/proc/%d/root/tmp/", s.initOf(t, "one"))
	rounds := func() (n int) {
		data, _ := os.ReadFile(inside + "rounds")
		_, _ = fmt.Sscan(string(data), &n)
		return n
	}
	await := func(least int) {
		for deadline := time.Now().Add(30 * time.Second); rounds() < least; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d rounds, not %d", rounds(), least)
			}
		}
	}
	await(2)
	_ = s.stop(syscall.SIGKILL)
	await(rounds() + 20)
	s.start()
	if adopted := s.status().GetAdopted(); adopted != 1 {
		t.Errorf("%d adopted\n%s", adopted, s.log)
	}
	if _, errOut, status := s.exec("one", "curl -sS --max-time 10 -o /dev/null https://"+allowedName+"/"); status != 0 {
		t.Errorf("curl: %s", errOut)
	}
	if got, err := os.ReadFile(inside + "got"); err == nil {
		t.Errorf("the sandbox had ports of the agent's: %s", got)
	}
}

// Forwards of SSH lead to the sandbox's own loopback and sockets, whatever they are called.
func TestAttackForwards(t *testing.T) {
	testenv.Require(t, "ssh")
	f := newFixture(t)
	s := f.newService()
	s.create("one", attackPolicy())
	s.create("two", attackPolicy())
	server := f.file("serve.py", `
import socket, sys
s = socket.create_server(("", 9797), family=socket.AF_INET6, dualstack_ipv6=True)
open(sys.argv[2], "w").close()
while True:
    c, _ = s.accept()
    c.sendall(sys.argv[1].encode() + b"\n")
    c.close()
`, 0o644)
	for _, name := range []string{"one", "two"} {
		s.detach(name, "exec /usr/bin/python3 "+server+" "+name+" /tmp/listens")
		s.exec(name, "timeout 20 sh -c 'until test -e /tmp/listens; do sleep 0.01; done'")
	}
	listens := filepath.Join(f.dir, "listens")
	host := f.env.Command("/usr/bin/python3", server, "host", listens)
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Process.Kill(); _ = host.Wait() })
	command(t, exec.Command("/bin/sh", "-c", "timeout 20 sh -c 'until test -e "+listens+"; do sleep 0.01; done'"))
	c := s.sshTo(t, "one")
	get := func(to string) string {
		out, err := withInput(c.command("ssh", "-W", to, "sandbox"), "").CombinedOutput()
		if err != nil {
			return "refused"
		}
		return strings.TrimSpace(string(out))
	}
	for to, want := range map[string]string{
		"127.0.0.1:9797": "one", "localhost:9797": "one", "[::1]:9797": "one", "127.9.9.9:9797": "one", "[::ffff:127.0.0.1]:9797": "one",
		"0.0.0.0:9797": "refused", "[::]:9797": "refused", "localhost.:9797": "refused", "127.1:9797": "refused", "0x7f000001:9797": "refused",
		"2130706433:9797": "refused", "[::ffff:0.0.0.0]:9797": "refused", "[fe80::1%lo]:9797": "refused", "198.18.0.1:9797": "refused",
		"10.0.0.1:9797": "refused", "two:9797": "refused", "127.0.0.1:15001": "refused", "127.0.0.1:15053": "refused",
		"127.0.0.1:15128": "refused", "127.0.0.1:53": "refused", "127.0.0.1:2222": "refused",
	} {
		if got := get(to); got != want {
			t.Errorf("%s: %q, want %q", to, got, want)
		}
	}
	// By sockets: the agent's own, by every name that they might have inside.
	for _, path := range []string{
		s.socket, s.ssh, "/run/ringfence/" + s.instance + "/init/two", "/proc/1/root" + s.socket, "/proc/self/root" + s.socket,
		"/tmp/../" + s.socket, "/proc/self/fd/3",
	} {
		here := filepath.Join(t.TempDir(), "here")
		client := c.command("ssh", "-N", "-L", here+":"+path, "sandbox")
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		got := command(t, exec.Command("/usr/bin/python3", "-c", `
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
for _ in range(1000):
    try:
        s.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.01)
try:
    s.sendall(b"PRI * HTTP/2.0\r\n\r\n")
    print(s.recv(100))
except OSError:
    print(b"")
`, here))
		_ = client.Process.Kill()
		_ = client.Wait()
		if got != "b''\n" {
			t.Errorf("%s: %s", path, got)
		}
	}
	refused := 0
	for _, r := range s.records("one") {
		if r.Reason == "ssh_forward" && r.Verdict == "deny" {
			refused++
		}
	}
	if refused < 20 {
		t.Errorf("%d refused forwards are recorded", refused)
	}
}
