package launch

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// probes are what the test program does inside a sandbox. Each gets the arguments
// after its name, and returns an exit status.
func probes() map[string]func([]string) int {
	return map[string]func([]string) int{
		"probe-exit":         func(a []string) int { n, _ := strconv.Atoi(a[0]); return n },
		"probe-syscalls":     probeSyscalls,
		"probe-agent":        probeAgent,
		"probe-anchor":       probeAnchor,
		"probe-files":        probeFiles,
		"probe-listen":       probeListen,
		"probe-pty":          probePTY,
		"probe-parent-death": probeParentDeath,
		"probe-echo":         probeEcho,
		"probe-replaced":     probeReplaced,
		"probe-reach":        probeReach,
		"probe-self":         probeSelf,

		"probe-anchored-agent":   probeAnchoredAgent,
		"probe-without-landlock": probeWithoutLandlock,
		"probe-etc":              probeEtc,
		"probe-refused-call":     probeRefusedCall,
	}
}

// attempt is one system call to try, and what came of it.
type attempt struct {
	Name string     `json:"name"`
	Nr   uintptr    `json:"nr"`
	Args [6]uintptr `json:"args"`
	Got  int        `json:"got"`
}

// probeSyscalls makes the calls of its argument (JSON), and prints them with the
// errno of each.
func probeSyscalls(args []string) int {
	var all []attempt
	if err := json.Unmarshal([]byte(args[0]), &all); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i := range all {
		a := all[i].Args
		_, _, e := unix.RawSyscall6(all[i].Nr, a[0], a[1], a[2], a[3], a[4], a[5])
		all[i].Got = int(e)
	}
	_ = json.NewEncoder(os.Stdout).Encode(all)
	return 0
}
