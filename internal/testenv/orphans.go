package testenv

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// reapOrphans collects the dead of sandboxes whose agent has died before them: they are
// this process's since it is the reaper of orphans, and the kernel ends a pid namespace
// only when each of its processes was collected. Those that a test has started itself
// are left to it; they are in no namespace below this one.
func reapOrphans() error {
	procs, err := readProcesses()
	if err != nil {
		return err
	}
	for pid, p := range procs {
		if p.parent != os.Getpid() || p.state != "Z" || !inner(pid) {
			continue
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil && err != unix.ECHILD {
			return fmt.Errorf("reap orphan %d: %w", pid, err)
		}
	}
	return nil
}

// inner reports whether a process has a number in a pid namespace below this one.
func inner(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false // ended meanwhile
	}
	for line := range strings.Lines(string(status)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return len(strings.Fields(numbers)) > 1
		}
	}
	return false
}
