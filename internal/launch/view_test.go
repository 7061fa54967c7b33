package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// lines runs a shell script inside and returns the lines of its output.
func lines(t *testing.T, n *Namespaces, script string) []string {
	t.Helper()
	r := runIn(t, n, command("sh", "-c", script))
	if r.err != "" {
		t.Logf("stderr: %s", r.err)
	}
	return strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
}

func TestView(t *testing.T) {
	for _, dir := range []string{"/run", "/tmp", "/var/tmp"} {
		marker := filepath.Join(dir, fmt.Sprintf("rf-launch-host-%d", os.Getpid()))
		if err := os.WriteFile(marker, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(marker) })
	}
	n := start(t)
	tests := []struct {
		name, script string
		want         []string
	}{
		{"host name", "hostname; cat /proc/sys/kernel/hostname", []string{"box", "box"}},
		{"nothing of the host's in masks", "ls /tmp /var/tmp | grep rf-; ls -A /run", []string{"ringfence"}},
		{"own /tmp", "touch /tmp/x && ls /tmp && stat -c %a /tmp /var/tmp", []string{"x", "1777", "1777"}},
		{"resolv.conf", "grep -v '^#' /etc/resolv.conf", []string{"nameserver 127.0.0.1", "options edns0"}},
		{"nsswitch.conf", "grep ^hosts /etc/nsswitch.conf", []string{"hosts: files dns"}},
		{"hosts", "awk '/box|ip6-localhost/ {$1=$1; print}' /etc/hosts", []string{"127.0.0.1 localhost box", "::1 localhost ip6-localhost ip6-loopback"}},
		{"devices", "ls /dev", []string{"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}},
		{"devices work", "head -c 3 /dev/zero | wc -c; echo x >/dev/null; echo y >/dev/shm/y && cat /dev/shm/y", []string{"3", "y"}},
		{"no ptys of the host", "ls /dev/pts", []string{"ptmx"}},
		{"processes", "ls /proc | grep '^[0-9]' | head -1; cat /proc/1/comm", []string{"1", "exe"}},
		{"no cgroupfs", "ls -A /sys/fs/cgroup /sys/kernel/debug 2>/dev/null | grep -v :; find /sys -name cgroup.procs", []string{""}},
		{"network devices", "ls /sys/class/net", []string{"lo"}},
		{"/proc is read-only", "(exec 3<>/proc/$$/mem) 2>/dev/null || echo refused; exec 4>/tmp/4; echo its own >/proc/self/fd/4; cat /tmp/4", []string{"refused", "its own"}},
		{"/sys is read-only", "awk '$2==\"/sys\" {o=$4} END {print substr(o, 1, 3)}' /proc/self/mounts", []string{"ro,"}},
		{"umask", "umask", []string{"0022"}},
		{"core files", "ulimit -c", []string{"0"}},
		{"descriptors", "ls /proc/self/fd", []string{"0", "1", "2", "3"}}, // 3 is ls's own
		{"working directory", "pwd", []string{"/"}},
		{"session leader", "awk '$6 == $1 {print \"leads\"}' /proc/$$/stat", []string{"leads"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, lines(t, n, tt.script)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// No path of the sandbox leads to one of the kernel's file systems.
func TestKernelFileSystemsAreGone(t *testing.T) {
	dir := probeDir(t)
	bpffs := filepath.Join(dir, "bpf")
	if err := os.Mkdir(bpffs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("cgroup2", bpffs, "cgroup2", 0, ""); err != nil {
		t.Skipf("skip: cannot mount cgroup2: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(bpffs, unix.MNT_DETACH) })
	n := start(t, visible(dir))
	out := lines(t, n, "ls -A "+bpffs+" | wc -l; for p in $(cut -d' ' -f2 /proc/self/mounts); do stat -f -c %T $p 2>/dev/null; done | grep -E 'cgroup|bpf|debug|trace|security' | sort -u")
	if diff := cmp.Diff([]string{"0"}, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if entries, err := os.ReadDir(bpffs); err != nil || len(entries) == 0 {
		t.Errorf("the host's own mount is gone: %v", err)
	}
}

func TestNamespacesAndCgroup(t *testing.T) {
	needRoot(t)
	var config Config
	n := start(t, func(c *Config) { config = *c })
	got := lines(t, n, "stat -Lc %i /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/pid /proc/self/ns/user; sed -n 's/^0:://p' /proc/self/cgroup")
	want := []string{
		fmt.Sprint(config.Netns.Inode()), fmt.Sprint(n.MountNS()), fmt.Sprint(n.PIDNS()), fmt.Sprint(n.UserNS()),
		"/" + filepath.Base(config.Cgroup.Name()),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, ns := range []string{"ipc", "uts", "mnt", "pid", "net"} {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if inside := lines(t, n, "readlink /proc/self/ns/"+ns)[0]; inside == host {
			t.Errorf("%s namespace is the host's", ns)
		}
	}
}

// What init keeps: CAP_KILL, to forward signals, and nothing else.
func TestInitHasDropped(t *testing.T) {
	n := start(t)
	status := strings.Join(lines(t, n, "cat /proc/1/status"), "\n")
	got := map[string]string{}
	want := map[string]string{
		"Uid": "2013265919\t2013265919\t2013265919\t2013265919", "Groups": "",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000020", "CapEff": "0000000000000020",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
	}
	for name := range want {
		got[name] = statusField(status, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, threads := range []struct{ field, want string }{
		{"CapEff", "0000000000000000 0000000000000020"}, {"CapPrm", "0000000000000000 0000000000000020"},
		{"NoNewPrivs", "1"}, {"Seccomp", "2"},
	} {
		script := "sed -n 's/^" + threads.field + ":\t//p' /proc/1/task/*/status | sort -u"
		if got := strings.Join(lines(t, n, script), " "); got != threads.want {
			t.Errorf("%s of all threads: %s, want %s", threads.field, got, threads.want)
		}
	}
	if r := runIn(t, n, command("sh", "-c", "ls /proc/1/fd || cat /proc/1/environ || kill -9 1")); r.status.Code == 0 {
		t.Errorf("a command can look into init: %+v", r)
	}
}

func TestRootIsTheSandboxes(t *testing.T) {
	n := start(t)
	runIn(t, n, command("sh", "-c", "echo inside > /tmp/file"))
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(int(n.Root().Fd()), "/tmp/file", &how)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "file")
	defer f.Close()
	if got := readAll(f); got != "inside\n" {
		t.Errorf("read %q", got)
	}
}

func TestVisibleDirectory(t *testing.T) {
	dir := probeDir(t)
	work := filepath.Join(dir, "deep", "er")
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(work, testUID, testUID); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/var/lib", 0o755); err != nil {
		t.Fatal(err)
	}
	const others, roots = "/var/tmp/", "/var/lib/" // where others may put a link, and where not
	for _, parent := range []string{others, roots} {
		link := parent + filepath.Base(dir)
		if err := os.Symlink(work, link); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(link) })
	}
	if step := startFails(t, visible(others+filepath.Base(dir))); !strings.Contains(step.Error(), errAnybodysLink.Error()) || step.Hint == "" {
		t.Errorf("a link that others could have put there: %+v", step)
	}
	n := start(t, visible(roots+filepath.Base(dir))) // a symlink keeps what it leads to
	c := command("sh", "-c", "echo hello > made; pwd; ls -A /tmp/"+filepath.Base(dir))
	c.Dir = work
	r := runIn(t, n, c)
	if want := work + "\ndeep\n"; r.out != want {
		t.Errorf("got %+v, want %q", r, want)
	}
	if text, err := os.ReadFile(filepath.Join(work, "made")); err != nil || string(text) != "hello\n" {
		t.Errorf("on the host: %q, %v", text, err)
	}
}

func TestRewriteHosts(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty", "", "hosts: files dns\n"},
		{"resolved", "passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files\n", "passwd: files\nhosts: files dns\n"},
		{"two, indented, no newline", " hosts: nis\nhosts:\tldap\ngroup: files", "group: files\nhosts: files dns\n"},
		{"commented", "# hosts: nis\n", "# hosts: nis\nhosts: files dns\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, rewriteHosts(tt.in)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
