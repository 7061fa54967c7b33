package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// whole waits until no sandbox is being made, and returns all of them. It fails the
// test where one is not whole, or where there is a part of one that is not listed.
func (s *service) whole(t *testing.T) map[string]*pb.Sandbox {
	t.Helper()
	var all map[string]*pb.Sandbox
	await(t, "all sandboxes are made", func() bool {
		reap(t)
		all = s.list(t)
		for _, sb := range all {
			if sb.GetStatus().GetPhase() == pb.SandboxStatus_CREATING {
				return false
			}
		}
		return true
	})
	var want []string
	ids := map[uint64]string{}
	for name, sb := range all {
		want = append(want, name)
		ids[sb.GetStatus().GetCgroupId()] = name
		if sb.GetStatus().GetPhase() != pb.SandboxStatus_READY || sb.GetStatus().GetCgroupId() == 0 {
			t.Errorf("%s: %v", name, sb.GetStatus())
		}
		if procs := s.processes(t, name); len(procs) == 0 {
			t.Errorf("%s has no process", name)
		}
	}
	slices.Sort(want)
	if got := s.cgroups(t); !slices.Equal(got, want) {
		t.Errorf("cgroups %q of sandboxes %q", got, want)
	}
	if got := s.anchors(t); !slices.Equal(got, want) {
		t.Errorf("anchors %q of sandboxes %q", got, want)
	}
	for _, id := range s.fenced(t) {
		if ids[id] == "" {
			t.Errorf("the hooks know a cgroup %d that is no sandbox's", id)
		}
		delete(ids, id)
	}
	for id, name := range ids {
		t.Errorf("%s has no fence: the hooks do not know its cgroup %d", name, id)
	}
	if strays := s.strays(t); len(strays) > 0 {
		t.Errorf("processes without a sandbox: %q", strays)
	}
	return all
}

// list returns every sandbox by name.
func (s *service) list(t *testing.T) map[string]*pb.Sandbox {
	t.Helper()
	list, err := s.client.Sandboxes.ListSandboxes(t.Context(), &pb.ListSandboxesRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	all := map[string]*pb.Sandbox{}
	for _, sb := range list.GetSandboxes() {
		all[sb.GetName()] = sb
	}
	return all
}

// cgroups returns the names of the cgroups of sandboxes that there are.
func (s *service) cgroups(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(namesIn(t, filepath.Join(cgroupsDir(t), s.instance)), func(name string) bool {
		return !isDir(filepath.Join(cgroupsDir(t), s.instance, name))
	})
}

func (s *service) anchors(t *testing.T) []string {
	t.Helper()
	return namesIn(t, filepath.Join(stateDir, s.instance, "init"))
}

func namesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// processes returns those of a sandbox that are alive.
func (s *service) processes(t *testing.T, name string) []string {
	t.Helper()
	var procs []string
	text, err := os.ReadFile(filepath.Join(cgroupsDir(t), s.instance, name, "cgroup.procs"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(text)) {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			procs = append(procs, pid)
		}
	}
	return procs
}

// fenced returns the cgroups that the hooks know.
func (s *service) fenced(t *testing.T) []uint64 {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(pinsDir, s.instance, "gen_*", "map_sandboxes"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("pinned maps of sandboxes: %q, %v", paths, err)
	}
	m, err := ebpf.LoadPinnedMap(paths[0], &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	value := make([]byte, m.ValueSize())
	var ids []uint64
	var id uint64
	entries := m.Iterate()
	for entries.Next(&id, &value) {
		ids = append(ids, id)
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	return ids
}

// strays returns processes that an agent has started and that its end has orphaned, and
// that are in no sandbox.
func (s *service) strays(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range paths {
		dir := filepath.Dir(path)
		status, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(status), "Name:\texe\n") ||
			!strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) || strings.Contains(string(status), "\nState:\tZ") {
			continue
		}
		group, err := os.ReadFile(dir + "/cgroup")
		if err != nil || strings.Contains(string(group), "/"+s.instance+"/") {
			continue
		}
		found = append(found, filepath.Base(dir)+" in "+strings.TrimSpace(string(group)))
	}
	return found
}

// reap takes what is orphaned and dead, as the init of a machine does: a sandbox's pid
// namespace does not end before. This process is their reaper (testenv.CheckLeaks).
func reap(t testing.TB) (living int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		status, err := os.ReadFile(path)
		_, numbers, _ := strings.Cut(string(status), "\nNSpid:\t")
		numbers, _, _ = strings.Cut(numbers, "\n")
		inside := len(strings.Fields(numbers)) > 1 // of a pid namespace: none that a test has started itself
		if err != nil || !inside || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			continue
		}
		if !strings.Contains(string(status), "\nState:\tZ") {
			living++
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil {
			t.Errorf("reap %d: %v", pid, err)
		}
	}
	return living
}
