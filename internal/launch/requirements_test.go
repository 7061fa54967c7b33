package launch

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/floor"
)

func TestRequirements(t *testing.T) {
	needRoot(t)
	for _, r := range append(Privileges(), Requirements()...) {
		if r.Required() && r.State != floor.Met {
			t.Errorf("%+v", r)
		}
	}
}

// What each version of Landlock lacks is what missingRights warns of, and the doors
// that it leaves.
func TestJudgeLandlock(t *testing.T) {
	tests := []struct {
		abi  int
		want []string // missing
	}{
		{0, []string{"Landlock"}},
		{2, []string{"Landlock: truncating files", "Landlock: ioctls of devices", "Landlock: scopes", "Landlock: Unix sockets"}},
		{3, []string{"Landlock: ioctls of devices", "Landlock: scopes", "Landlock: Unix sockets"}},
		{5, []string{"Landlock: scopes", "Landlock: Unix sockets"}},
		{6, []string{"Landlock: Unix sockets"}},
		{9, nil},
		{30, nil},
	}
	for _, tt := range tests {
		var got []string
		for _, r := range judgeLandlock(tt.abi) {
			if r.Required() || r.State == floor.Unknown || r.Found == "" {
				t.Errorf("version %d: %+v", tt.abi, r)
			}
			if r.State == floor.Missing {
				got = append(got, r.Name)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("version %d (-want +got):\n%s", tt.abi, diff)
		}
	}
}

// Calls that a container's filter refuses are missing, by name, whatever errno it
// gives; and asking for them does nothing where it does not.
func TestRefusedCalls(t *testing.T) {
	needRoot(t)
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM} {
		for _, c := range neededCalls() {
			out, err := exec.Command("/proc/self/exe", "probe-refused-call", fmt.Sprint(c.nr), fmt.Sprint(int(errno))).Output()
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if got, want := string(out), fmt.Sprintf("missing: no %s (%s)\n", c.name, errno.Error()); got != want {
				t.Errorf("found %q, want %q", got, want)
			}
		}
	}
}

// probeRefusedCall prints what calls finds where a system call has an errno.
func probeRefusedCall(args []string) int {
	var nr, errno uint32
	if _, err := fmt.Sscan(strings.Join(args, " "), &nr, &errno); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	runtime.LockOSThread()
	filter := []unix.SockFilter{
		load(numberOffset)[0],
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 1},
		refuse(unix.Errno(errno))[0],
		give(unix.SECCOMP_RET_ALLOW)[0],
	}
	if err := install(filter, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	r := calls()
	fmt.Printf("%s: %s\n", r.State, r.Found)
	return 0
}
