package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// examination is what doctor -o json writes, as a reader sees it.
type examination struct {
	OK           bool `json:"ok"`
	Requirements []struct {
		Group    string  `json:"group"`
		Name     string  `json:"name"`
		Required bool    `json:"required"`
		State    string  `json:"state"`
		Found    string  `json:"found"`
		Costs    string  `json:"costs"`
		Hint     string  `json:"hint"`
		Duration float64 `json:"duration_ms"`
	} `json:"requirements"`
}

// unmet returns the names of what is required, by state.
func (e *examination) unmet(state string) []string {
	var names []string
	for _, r := range e.Requirements {
		if r.Required && r.State == state {
			names = append(names, r.Name)
		}
	}
	return names
}

// doctor runs doctor -o json by the words of before, which may be none.
func doctor(t *testing.T, before ...string) (found examination, status int) {
	t.Helper()
	argv := append(slices.Clone(before), program, "doctor", "-o", "json")
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&found); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, stderr.String())
	}
	return found, cmd.ProcessState.ExitCode()
}

// startProgram starts a program outside of any fixture.
func startProgram(t *testing.T, argv ...string) *running {
	t.Helper()
	r := &running{t: t, cmd: exec.Command(argv[0], argv[1:]...)}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

// mountsOf returns the words that run a program after a script in a mount namespace
// of its own.
func mountsOf(t *testing.T, script string) []string {
	return []string{
		"env", "CGROUP2=" + strings.TrimSuffix(cgroupsDir(t), "/ringfence"),
		"unshare", "--mount", "--propagation", "private", "sh", "-ec", script + "\nexec \"$@\"", "sh",
	}
}

// Where everything is there, a sandbox is started to see it, and nothing is left.
func TestDoctor(t *testing.T) {
	testenv.Require(t)
	// What the first start on a machine leaves for the next: directories, a lock.
	if _, status := doctor(t); status != 0 {
		t.Errorf("status %d", status)
	}
	testenv.CheckLeaks(t, "ringfence")
	found, status := doctor(t)
	if status != 0 || !found.OK || len(found.unmet("missing"))+len(found.unmet("unknown")) > 0 {
		t.Fatalf("status %d\n%+v", status, found)
	}
	var trial int
	for _, r := range found.Requirements {
		if r.Costs == "" || r.Required != (r.Costs == "nothing starts") {
			t.Errorf("costs: %+v", r)
		}
		if r.Group == "trial" && r.Duration > 0 {
			trial++
		}
	}
	if trial != 2 {
		t.Errorf("no trial in %+v", found)
	}
	noneAbandoned(t)
}

// What is missing is named, with what to do; nothing is tried then, and a run
// refuses for the same reason, before it has made anything.
func TestDoctorFindsWhatIsMissing(t *testing.T) {
	testenv.Require(t, "setarch", "setpriv", "unshare")
	tests := []struct {
		name   string
		before []string
		want   string // what is missing
		says   string
	}{
		{"an old kernel", []string{"setarch", "--uname-2.6"}, "Linux 6.1 or newer", "2.6."},
		{"no cgroup2", mountsOf(t, "umount -a -t cgroup2"), "a cgroup2 hierarchy that can be written", "no cgroup2 file system is mounted"},
		{"a read-only cgroup2", mountsOf(t, "mount -o remount,bind,ro $CGROUP2"), "a cgroup2 hierarchy that can be written", "read-only file system"},
		{"a read-only BPF file system", mountsOf(t, "mount -t bpf -o ro bpf /sys/fs/bpf"), "a BPF file system that can be written", "mounted read-only"},
		{"no types", mountsOf(t, "mount -t tmpfs tmpfs /sys/kernel"), "the kernel's types (BTF)", "no such file"},
		{"root of a user namespace", []string{"unshare", "--user", "--map-root-user"}, "root", "uid 0 of a user namespace only"},
	}
	for _, c := range []string{"chown", "dac_override", "kill", "setgid", "setuid", "setpcap", "net_admin", "sys_chroot", "sys_admin"} {
		name := "CAP_" + strings.ToUpper(c)
		tests = append(tests, struct {
			name   string
			before []string
			want   string
			says   string
		}{"no " + name, []string{"setpriv", "--bounding-set", "-" + c}, "capabilities", "no " + name})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found, status := doctor(t, tt.before...)
			if status != 1 || found.OK {
				t.Errorf("status %d, ok %t", status, found.OK)
			}
			if !slices.Contains(found.unmet("missing"), tt.want) {
				t.Errorf("missing: %q, want %q", found.unmet("missing"), tt.want)
			}
			for _, r := range found.Requirements {
				switch {
				case r.Name == tt.want && (!strings.Contains(r.Found, tt.says) || r.Hint == ""):
					t.Errorf("%+v, want %q", r, tt.says)
				case r.Group == "trial" && (r.State != "unknown" || r.Duration != 0):
					t.Errorf("it was tried: %+v", r)
				}
			}
			argv := append(slices.Clone(tt.before), program, "run", "--agent=never", "--", "true")
			got := startProgram(t, argv...).wait()
			if got.status != 125 || !strings.Contains(got.stderr, "this machine lacks "+tt.want+": ") || !strings.Contains(got.stderr, tt.says) ||
				!strings.Contains(got.stderr, "\nhint: ringfence doctor ") {
				t.Errorf("run: status %d\n%s", got.status, got.stderr)
			}
			noneAbandoned(t)
		})
	}
}

// A start that is refused for the machine has not made as much as a directory.
func TestRefusedStartMakesNothing(t *testing.T) {
	testenv.Require(t, "setarch", "unshare")
	const script = `mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
setarch --uname-2.6 "$@" || echo "status $?"
find /run /sys/fs/bpf -name "ringfence*"`
	got := startProgram(t, "unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", program, "run", "--agent=never", "--", "true").wait()
	if got.stdout != "status 125\n" {
		t.Errorf("%s\n%s", got.stdout, got.stderr)
	}
}

// What only the trial can see is told there, and the rest of it is not tried.
func TestDoctorTrialFails(t *testing.T) {
	testenv.Require(t, "unshare")
	tests := []struct{ name, before, want, says, other string }{
		{"no room for the state", "mount -t tmpfs -o nr_inodes=1 tmpfs /run", "hooks that load and attach", "make state directory: ", "not tried"},
		{"no shell", `mount --bind /dev/null "$(realpath /bin/sh)"`, "a sandbox that runs a command", "permission denied", "in "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found, status := doctor(t, mountsOf(t, tt.before)...)
			if got := found.unmet("missing"); status != 1 || !slices.Equal(got, []string{tt.want}) {
				t.Errorf("status %d, missing %q", status, got)
			}
			for _, r := range found.Requirements {
				if r.Name == tt.want && !strings.Contains(r.Found, tt.says) || r.Group == "trial" && r.Name != tt.want && !strings.HasPrefix(r.Found, tt.other) {
					t.Errorf("%+v", r)
				}
			}
			noneAbandoned(t)
		})
	}
}

// Without root it says what it could not look at, and all else.
func TestDoctorWithoutRoot(t *testing.T) {
	testenv.Require(t, "setpriv")
	found, status := doctor(t, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
	if status != 1 || found.OK {
		t.Errorf("status %d, ok %t", status, found.OK)
	}
	if got, want := fmt.Sprint(found.unmet("missing")), "[root capabilities]"; got != want {
		t.Errorf("missing: %s, want %s", got, want)
	}
	for _, name := range []string{"types of BPF programs", "BPF helpers", "a cgroup2 hierarchy that can be written", "hooks that load and attach"} {
		if !slices.Contains(found.unmet("unknown"), name) {
			t.Errorf("%s is not unknown: %q", name, found.unmet("unknown"))
		}
	}
}

// A trial that is told to end leaves nothing.
func TestDoctorInterrupted(t *testing.T) {
	testenv.Require(t)
	r := startProgram(t, program, "doctor")
	r.instance()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := r.wait(); got.status != 128+int(syscall.SIGTERM) {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
	noneAbandoned(t)
}
