package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// unitCapabilities are those that the unit leaves the agent.
func unitCapabilities(t *testing.T) []string {
	t.Helper()
	return strings.Fields(strings.Join(unitKeys(t, "Service")["CapabilityBoundingSet"], " "))
}

// capabilities are those that anybody thought of for the unit: CAP_SYS_PTRACE, by which
// the agent could look into programs, is not among them.
func capabilities() map[string]int {
	return map[string]int{
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "CAP_KILL": unix.CAP_KILL,
		"CAP_SETGID": unix.CAP_SETGID, "CAP_SETUID": unix.CAP_SETUID, "CAP_SETPCAP": unix.CAP_SETPCAP,
		"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN,
	}
}

// bounded returns a program that runs another with these capabilities and no others,
// as a service manager does.
func (f *fixture) bounded(program string, set []string) string {
	bounding := "-all"
	for _, c := range set {
		bounding += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	return f.file("bounded", "#!/bin/sh\nexec setpriv --bounding-set "+bounding+" "+program+" \"$@\"\n", 0o755)
}

// onlyCapabilities checks that a service has them and no others.
func (s *service) onlyCapabilities(t *testing.T, set []string) {
	t.Helper()
	var mask uint64
	for _, c := range set {
		number, ok := capabilities()[c]
		if !ok {
			t.Fatalf("the unit has %s", c)
		}
		mask |= 1 << number
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
		if want := fmt.Sprintf("%s:\t%016x\n", set, mask); !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
}

// With the capabilities of the unit and no others everything works: sandboxes with and
// without a filesystem_policy, commands, SSH, policies, restarts and an upgrade.
func TestServiceCapabilities(t *testing.T) {
	testenv.Require(t, "setpriv", "curl", "ssh", "sftp", "/usr/bin/python3")
	set := unitCapabilities(t)
	f := newFixture(t)
	w := newWork(f)
	s := w.service
	s.program = f.bounded(program, set)
	t.Cleanup(s.end)
	s.start()
	s.onlyCapabilities(t, set)
	all := func(tasks []task) {
		t.Helper()
		for name, err := range w.failures(t, tasks) {
			t.Errorf("%s: %v", name, err)
		}
	}
	all(w.makes())
	all(w.uses(t))
	upgrade := buildOther(t)
	for _, next := range []struct {
		signal  syscall.Signal
		program string
		hooks   string
	}{
		{syscall.SIGKILL, program, "adopted"},
		{syscall.SIGTERM, program, "adopted"},
		{syscall.SIGTERM, upgrade, "migrated"},
	} {
		_ = s.stop(next.signal)
		s.program = f.bounded(next.program, set)
		s.start()
		s.onlyCapabilities(t, set)
		if status := s.status(); status.GetHooks() != next.hooks || status.GetAdopted() != 2 || len(status.GetProblems()) > 0 {
			t.Errorf("after %v: %v\n%s", next.signal, status, s.log)
		}
		all(w.uses(t))
	}
}

// buildOther builds ringfence with another layout of maps.
func buildOther(t *testing.T) string {
	t.Helper()
	other := filepath.Join(t.TempDir(), "ringfence")
	build := exec.Command("go", "build", "-tags", "otherlayout", "-o", other, "github.com/ringfence/ringfence/cmd/ringfence")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	command(t, build)
	return other
}

// Without any one of them the agent says so, before it makes anything: what it asks for
// is what the unit gives. That each is needed is seen in internal/agent.
func TestServiceCapabilitiesAreAskedFor(t *testing.T) {
	testenv.Require(t, "setpriv")
	set := unitCapabilities(t)
	f := newFixture(t)
	for _, dropped := range set {
		t.Run(dropped, func(t *testing.T) {
			s := f.prepareService()
			s.program = f.bounded(program, slices.DeleteFunc(slices.Clone(set), func(c string) bool { return c == dropped }))
			s.launch()
			err := s.ended()
			if err == nil || !strings.Contains(s.log.String(), "this machine lacks capabilities: no "+dropped+"\n") || !strings.Contains(s.log.String(), "\nhint: ") {
				t.Errorf("%v\n%s", err, s.log)
			}
		})
	}
}
