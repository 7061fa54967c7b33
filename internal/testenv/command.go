package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/internal/netns"
	"golang.org/x/sys/unix"
)

// Command returns a command that runs in the host namespace. It is killed when
// the Env closes or the test process dies; for that the calling goroutine must
// not be locked to a thread that ends before the command. Its environment is a
// minimal one, to which the caller may append.
func (e *Env) Command(name string, args ...string) *exec.Cmd {
	return e.command(e.host, name, args...)
}

// InternetCommand returns a command that runs in the internet namespace.
func (e *Env) InternetCommand(name string, args ...string) *exec.Cmd {
	return e.command(e.internet, name, args...)
}

func (e *Env) command(ns *netns.Handle, name string, args ...string) *exec.Cmd {
	argv := append([]string{"--net=" + nsPath(ns), "--", name}, args...)
	cmd := exec.CommandContext(e.ctx, "nsenter", argv...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.Env = cleanEnviron(os.Environ())
	// A grandchild that keeps the output open must not hold up a test.
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// nsPath names the namespace for another process. The descriptor is not
// inherited: a sandbox under test must not find it open.
func nsPath(ns *netns.Handle) string {
	return fmt.Sprintf("/proc/%d/fd/%d", unix.Getpid(), ns.File().Fd())
}

// cleanEnviron keeps what a program needs to start. Proxy and CA variables of the
// machine would change what a test does.
func cleanEnviron(environ []string) []string {
	keep := []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "TMPDIR", "GOCOVERDIR", "GORACE"}
	return slices.DeleteFunc(environ, func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return !slices.Contains(keep, name)
	})
}
