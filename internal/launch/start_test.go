package launch

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// self is everything that a command can read back of what it is.
type self struct {
	Status     map[string]string
	Core       unix.Rlimit
	Dumpable   int
	NoNewPrivs int
	Securebits int
	Namespaces map[string]string
	FDs        []string
	Ambient    []int // capabilities of the set
	RootAgain  string
	Parent     int
	Session    bool
}

func statusFields() []string {
	return []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"}
}

// probeSelf prints self. It opens nothing by the runtime, which would keep
// descriptors of its own.
func probeSelf([]string) int {
	s := self{Status: map[string]string{}, Namespaces: map[string]string{}, Parent: unix.Getppid()}
	list, err := descriptors()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s.FDs = list
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, name := range statusFields() {
		s.Status[name] = statusField(string(status), name)
	}
	_ = unix.Getrlimit(unix.RLIMIT_CORE, &s.Core)
	s.Dumpable, _ = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	s.NoNewPrivs, _ = unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	s.Securebits, _ = unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	for c := range lastCapability + 1 {
		if set, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, uintptr(c), 0, 0); err == nil && set != 0 {
			s.Ambient = append(s.Ambient, c)
		}
	}
	for _, ns := range []string{"ipc", "mnt", "net", "pid", "user", "uts"} {
		s.Namespaces[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0)
	s.RootAgain = e.Error()
	sid, _ := unix.Getsid(0)
	s.Session = sid == os.Getpid()
	_ = json.NewEncoder(os.Stdout).Encode(s)
	return 0
}

// descriptors returns what is open, but for the descriptor that it is read by.
func descriptors() ([]string, error) {
	fd, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 8<<10)
	n, err := unix.ReadDirent(fd, buf)
	if err != nil {
		return nil, err
	}
	_, _, names := unix.ParseDirent(buf[:n], -1, nil)
	names = slices.DeleteFunc(names, func(name string) bool { return name == fmt.Sprint(fd) })
	slices.Sort(names)
	return names, nil
}

// TestCommandHasNothingLeft reads everything back from inside, as the sandbox's
// user, with a policy for files and without.
func TestCommandHasNothingLeft(t *testing.T) {
	dir := openTree(t)
	host := map[string]string{}
	for _, ns := range []string{"ipc", "mnt", "net", "pid", "uts"} {
		link, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		host[ns] = link
	}
	user, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	programs, err := filters()
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%d\t", testUID), 4), "\t")
	const none = "0000000000000000"
	want := self{
		Status: map[string]string{
			"Uid": id, "Gid": id, "Groups": "4 20", "CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
			"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": fmt.Sprint(len(programs)),
		},
		// execve made it dumpable, as every program of a user is: what could use that
		// (ptrace, process_vm_writev, /proc/PID/mem) is closed otherwise.
		Dumpable: 1, NoNewPrivs: 1, FDs: []string{"0", "1", "2"}, RootAgain: unix.EPERM.Error(), Session: true,
	}
	for name, change := range map[string]func(*Config){
		"without files": func(*Config) {},
		"with files":    withFiles([]string{filepath.Join(dir, "probe")}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, visible(dir), change)
			for range 2 { // by the process that was started ahead, and by another
				c := command(dir+"/probe", "probe-self")
				c.Groups = []uint32{20, 4}
				r := runIn(t, n, c)
				var got self
				if err := json.Unmarshal([]byte(r.out), &got); err != nil {
					t.Fatalf("%v: %+v", err, r)
				}
				for ns, link := range got.Namespaces {
					if link == "" || link == host[ns] || ns == "user" && link != user {
						t.Errorf("%s namespace is %q", ns, link)
					}
				}
				got.Namespaces = nil
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}
