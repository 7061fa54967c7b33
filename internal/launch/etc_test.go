package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
	"github.com/ringfence/ringfence/internal/netns"
)

// probeEtc is an agent on a host whose /etc it makes itself, in its own mount
// namespace: its arguments are a cgroup and what resolv.conf is there.
func probeEtc(args []string) int {
	if err := runOnHost(args[0], args[1]); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func runOnHost(group, resolv string) error {
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", "/etc", "tmpfs", 0, "mode=0755"),
		os.WriteFile("/etc/nsswitch.conf", []byte("hosts: nis\n"), 0o644),
	)
	switch resolv {
	case "none":
	case "file":
		err = errors.Join(err, os.WriteFile("/etc/resolv.conf", []byte("the host's"), 0o644), os.WriteFile("/etc/hosts", nil, 0o644))
	default:
		err = errors.Join(err, os.Symlink(resolv, "/etc/resolv.conf"), os.WriteFile("/etc/hosts", nil, 0o644))
	}
	if err != nil {
		return err
	}
	g, err := cgroup.Open(group)
	if err != nil {
		return err
	}
	ns, err := netns.New()
	if err != nil {
		return err
	}
	n, err := Start(context.Background(), Config{Name: "box", Netns: ns, Cgroup: g.File()})
	if err != nil {
		return err
	}
	defer n.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	c := command("sh", "-c", "head -1 /etc/resolv.conf; grep -c box /etc/hosts; cat /etc/nsswitch.conf")
	c.Stdio = [3]*os.File{r, w, w}
	p, err := n.Exec(context.Background(), c)
	if err != nil {
		return err
	}
	w.Close()
	if _, err := p.Wait(context.Background()); err != nil {
		return err
	}
	fmt.Print(readAll(r))
	entries, err := os.ReadDir("/etc")
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	return err
}

// The name service files are the sandbox's whatever the host has, and nothing is
// written to the host.
func TestNameServiceOnOtherHosts(t *testing.T) {
	needRoot(t)
	sandbox := []string{"nameserver 127.0.0.1", "1", "hosts: files dns"}
	all := slices.Concat(sandbox, []string{"hosts", "nsswitch.conf", "resolv.conf"})
	tests := []struct {
		name, resolv string
		want         []string
	}{
		{"a file", "file", all},
		{"a symlink into /run", "../run/systemd/resolve/stub-resolv.conf", all},
		{"a symlink to nothing", "/var/lib/no/such", all},
		{"nothing", "none", append(sandbox[:3:3], "nsswitch.conf")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			host := exec.Command("/proc/self/exe", "probe-etc", testGroup(t).Path(), tt.resolv)
			host.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
			out, err := host.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if diff := cmp.Diff(tt.want, strings.Split(strings.TrimSpace(string(out)), "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
