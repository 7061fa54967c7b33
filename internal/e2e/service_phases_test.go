package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/store"
	"github.com/ringfence/ringfence/internal/testenv"
)

// initOf returns the init of a sandbox, as the host sees it.
func (s *service) initOf(t *testing.T, name string) int {
	t.Helper()
	for _, pid := range s.processes(t, name) {
		status, _ := os.ReadFile("/proc/" + pid + "/status")
		if strings.Contains(string(status), "\nNSpid:\t"+pid+"\t1\n") {
			n, _ := strconv.Atoi(pid)
			return n
		}
	}
	t.Fatalf("%s has no init", name)
	return 0
}

func (s *service) remove(ctx context.Context, name string) error {
	_, err := s.client.Sandboxes.DeleteSandbox(ctx, &pb.DeleteSandboxRequest{Name: name})
	return err
}

// get returns a sandbox's status; nil where there is none.
func (s *service) get(t *testing.T, name string) *pb.SandboxStatus {
	t.Helper()
	sb, err := s.client.Sandboxes.GetSandbox(t.Context(), &pb.GetSandboxRequest{Name: name})
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	return sb.GetStatus()
}

// A sandbox whose init was killed has failed, with a reason, and nothing is left of it
// but its name. The next agent makes it anew, and it can be deleted at any time.
func TestServiceInitKilled(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	s.create("one", "deny-all")
	s.create("two", "deny-all")
	for _, how := range []string{"made", "adopted"} {
		t.Run(how, func(t *testing.T) {
			s.detach("one", "sleep 1000")
			if err := syscall.Kill(s.initOf(t, "one"), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			await(t, "the sandbox has failed", func() bool { return s.get(t, "one").GetPhase() == pb.SandboxStatus_FAILED })
			if reason := s.get(t, "one").GetReason(); !strings.Contains(reason, "killed") {
				t.Errorf("reason %q", reason)
			}
			await(t, "nothing is left of it", func() bool {
				reap(t)
				return len(s.cgroups(t)) == 1 && len(s.anchors(t)) == 1 && len(s.fenced(t)) == 1
			})
			_, _, _, err := s.tryExec(t.Context(), "one", "true")
			fails(t, err, api.CodeFailedPrecondition)
			if problems := s.status().GetProblems(); len(problems) != 1 || !strings.Contains(problems[0], "one") {
				t.Errorf("problems: %q", problems)
			}
			_ = s.stop(syscall.SIGTERM)
			s.start()
			if all := s.whole(t); len(all) != 2 {
				t.Errorf("sandboxes: %v", all)
			}
			if _, _, status := s.exec("one", "exit 3"); status != 3 {
				t.Errorf("status %d", status)
			}
		})
	}
	if err := syscall.Kill(s.initOf(t, "one"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the sandbox has failed", func() bool { return s.get(t, "one").GetPhase() == pb.SandboxStatus_FAILED })
	if err := s.remove(t.Context(), "one"); err != nil {
		t.Error(api.ErrorOf(err))
	}
	s.create("one", "deny-all")
	s.whole(t)
}

// A sandbox that is there and cannot be adopted is fenced, says so, and can be deleted
// with all that is in it.
func TestServiceCannotAdopt(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	s.create("one", "deny-all")
	s.detach("one", "sleep 1000")
	_ = s.stop(syscall.SIGKILL)
	s.openState(t, func(st *store.Store) {
		if err := st.Put(store.Trust, "one", []byte("what no release has written")); err != nil {
			t.Fatal(err)
		}
	})
	s.start()
	if problems := strings.Join(s.status().GetProblems(), "\n"); !strings.Contains(problems, "sandbox one is not served: it is fenced") {
		t.Errorf("problems: %q", problems)
	}
	if status := s.get(t, "one"); status.GetPhase() != pb.SandboxStatus_CREATING || !strings.Contains(status.GetReason(), "fenced") {
		t.Errorf("status: %v", status)
	}
	if len(s.processes(t, "one")) < 2 || len(s.fenced(t)) != 1 {
		t.Errorf("processes %q, fenced %v", s.processes(t, "one"), s.fenced(t))
	}
	if err := s.remove(t.Context(), "one"); err != nil {
		t.Error(api.ErrorOf(err))
	}
	s.create("one", "deny-all")
	s.whole(t)
}

// Whatever is done at the same time to one name, it ends soon, and what there is
// afterwards is what was answered.
func TestServiceAtTheSameTime(t *testing.T) {
	f := newFixture(t)
	s := f.newService()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	create := func(name string) error {
		_, err := s.client.Sandboxes.CreateSandbox(ctx, &pb.CreateSandboxRequest{Name: name, Spec: &pb.SandboxSpec{Policy: policySource("deny-all")}})
		return err
	}
	expect := func(t *testing.T, err error, codes ...api.Code) bool {
		t.Helper()
		for _, code := range codes {
			if api.CodeOf(err) == code {
				return false
			}
		}
		if err != nil {
			t.Errorf("%+v", api.ErrorOf(err))
		}
		return err == nil
	}
	t.Run("creates", func(t *testing.T) {
		var all sync.WaitGroup
		made := make(chan bool, 8)
		for range cap(made) {
			all.Go(func() { made <- expect(t, create("one"), api.CodeAlreadyExists) })
		}
		all.Wait()
		close(made)
		n := 0
		for ok := range made {
			if ok {
				n++
			}
		}
		if n != 1 || len(s.whole(t)) != 1 {
			t.Errorf("%d creates of one name were answered", n)
		}
	})
	t.Run("create and delete", func(t *testing.T) {
		var all sync.WaitGroup
		until := time.Now().Add(2 * time.Second)
		for range 3 {
			all.Go(func() {
				for time.Now().Before(until) {
					expect(t, create("one"), api.CodeAlreadyExists)
				}
			})
			all.Go(func() {
				for time.Now().Before(until) {
					expect(t, s.remove(ctx, "one"), api.CodeNotFound)
				}
			})
			all.Go(func() { // a caller who goes away meanwhile
				for time.Now().Before(until) {
					short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
					_, err := s.client.Sandboxes.CreateSandbox(short, &pb.CreateSandboxRequest{Name: "one", Spec: &pb.SandboxSpec{Policy: policySource("deny-all")}})
					expect(t, err, api.CodeAlreadyExists, api.CodeDeadlineExceeded, api.CodeCanceled)
					cancel()
				}
			})
		}
		all.Wait()
		expect(t, s.remove(ctx, "one"), api.CodeNotFound)
		if all := s.whole(t); len(all) != 0 {
			t.Errorf("left: %v", all)
		}
	})
	t.Run("update and delete", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 6 {
			name := fmt.Sprint("u", i)
			all.Go(func() {
				expect(t, create(name))
				var both sync.WaitGroup
				both.Go(func() { expect(t, s.remove(ctx, name)) })
				for range 4 {
					both.Go(func() {
						_, err := s.client.Sandboxes.UpdateSandbox(ctx, &pb.UpdateSandboxRequest{Name: name, Fields: []string{"labels"}, Spec: &pb.SandboxSpec{}})
						expect(t, err, api.CodeNotFound)
						_, err = s.client.Policies.SetPolicy(ctx, &pb.SetPolicyRequest{Sandbox: name, Source: policySource("deny-all")})
						expect(t, err, api.CodeNotFound, api.CodeFailedPrecondition)
					})
				}
				both.Wait()
			})
		}
		all.Wait()
		_ = s.stop(syscall.SIGKILL)
		s.start()
		if all := s.whole(t); len(all) != 0 {
			t.Errorf("deleted sandboxes are back: %v", all)
		}
	})
	t.Run("update during exec", func(t *testing.T) {
		expect(t, create("one"))
		var running sync.WaitGroup
		running.Go(func() {
			if out, _, _, err := s.tryExec(ctx, "one", "echo begun; while ! [ -e /tmp/go ]; do sleep 0.05; done; echo done"); err != nil || out != "begun\ndone\n" {
				t.Errorf("exec: %q, %v", out, api.ErrorOf(err))
			}
		})
		_, err := s.client.Sandboxes.UpdateSandbox(ctx, &pb.UpdateSandboxRequest{
			Name: "one", Fields: []string{"environment", "policy"},
			Spec: &pb.SandboxSpec{Environment: map[string]string{"A": "b"}, Policy: policySource("deny-all")},
		})
		expect(t, err)
		if out, _, _ := s.exec("one", "touch /tmp/go; echo $A"); out != "b\n" {
			t.Errorf("environment: %q", out)
		}
		running.Wait()
	})
	s.fewGoroutines(t, 64)
}

// A sandbox is deleted under whatever goes on in it.
func TestServiceDeletedUnderSSH(t *testing.T) {
	testenv.Require(t, "ssh", "sftp")
	f := newFixture(t)
	s := f.newService()
	s.create("bystander", "deny-all")
	before := descriptorsOf(t, s.pid())
	s.create("one", "deny-all")
	c := s.sshTo(t, "one")
	var all sync.WaitGroup
	for i := range 20 {
		// Sessions that say nothing, that write all the time, and that are written to.
		cmd := c.command("ssh", "sandbox", []string{
			"echo up; sleep 1000", "echo up; cat /dev/zero", "echo up; cat >/dev/null", "echo up; sleep 1000 & wait",
		}[i%4])
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 2 {
			zero, err := os.Open("/dev/zero")
			if err != nil {
				t.Fatal(err)
			}
			defer zero.Close()
			cmd.Stdin = zero
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		up := make(chan error, 1)
		all.Go(func() {
			word := make([]byte, 3)
			_, err := io.ReadFull(out, word)
			up <- err
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
		})
		if i%4 == 3 { // not all at once: unauthenticated ones are few
			if err := <-up; err != nil {
				t.Fatalf("session %d: %v\n%s", i, err, s.log)
			}
		}
	}
	get := c.command("sftp", "sandbox")
	get.Stdin = strings.NewReader("get /dev/zero " + t.TempDir() + "/zero\n")
	if err := get.Start(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := s.remove(t.Context(), "one"); err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	took := time.Since(begin)
	all.Wait()
	_ = get.Wait()
	t.Logf("deleted in %v, all sessions over after %v", took.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("deleting took %v", took)
	}
	await(t, "the agent has let go of all of it", func() bool {
		return s.status().GetSshConnections() == 0 && descriptorsOf(t, s.pid()) <= before+2
	})
	if all := s.whole(t); len(all) != 1 {
		t.Errorf("sandboxes: %v", all)
	}
	s.fewGoroutines(t, 80)
}

func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	return len(namesIn(t, fmt.Sprintf("/proc/%d/fd", pid)))
}

// fewGoroutines has the agent tell of its goroutines, by which it ends.
func (s *service) fewGoroutines(t *testing.T, most int) {
	t.Helper()
	_ = s.stop(syscall.SIGQUIT)
	n := strings.Count(s.log.String(), "\ngoroutine ")
	t.Logf("%d goroutines", n)
	if n == 0 || n > most {
		t.Errorf("the agent has %d goroutines\n%s", n, s.log)
	}
	s.start()
}
