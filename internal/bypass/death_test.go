package bypass

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/cgroup"
)

// deathGroup: the agent is killed while the sandbox tries (rows 8 and 31). What was
// tried until the end is judged in a second run, by what was written down. That
// run also shows that what the first left is no hindrance.
func deathGroup() group {
	return group{name: "death", runner: client, dies: true, attempts: func() []attempt {
		return []attempt{
			{row: 31, name: "agent_killed", want: "as-before", try: tryUntilTheEnd},
			{row: 8, name: "bind_while_agent_dies", want: "EPERM", try: func(in *intruder) string { return noted(in, "bind") }},
			{row: 31, name: "connects_while_agent_dies", want: "held", try: func(in *intruder) string { return noted(in, "denied") }},
			{row: 31, name: "udp_while_agent_dies", want: "EPERM", try: func(in *intruder) string { return noted(in, "udp") }},
			{row: 31, name: "hooks_outlive_the_agent", want: "EPERM", try: func(in *intruder) string {
				text, err := os.ReadFile(filepath.Join(in.dir, lateName))
				if err != nil {
					return word(err)
				}
				return string(text)
			}},
			{row: 31, name: "processes_end_with_the_agent", want: "none", try: func(in *intruder) string {
				text, err := os.ReadFile(filepath.Join(in.dir, leftName))
				if err != nil {
					return word(err)
				}
				return string(text)
			}},
		}
	}}
}

// The notes of the first run, and what the test saw after it.
const (
	notesName = "own/notes"
	lateName  = "late" // what a connection in the dead agent's cgroup met
	leftName  = "left" // processes of the sandbox
)

// tryUntilTheEnd tries in the first run until it is killed, and writes down what
// it met. In the second one it looks whether there are notes.
func tryUntilTheEnd(in *intruder) string {
	path := filepath.Join(in.dir, notesName)
	if _, err := os.Stat(filepath.Join(in.dir, leftName)); err == nil {
		if text, err := os.ReadFile(path); err != nil || strings.Count(string(text), "\n") < enoughNotes {
			return fmt.Sprintf("few notes: %q, %v", text, err)
		}
		return "as-before"
	}
	notes, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return word(err)
	}
	for {
		fmt.Fprintf(notes, "bind %s\n", bindTo(unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1", capturePort, unix.SO_REUSEPORT, unix.SO_REUSEADDR))
		fmt.Fprintf(notes, "denied %s\n", oneOf(connect(in.v4, portEcho), "reset ECONNREFUSED EPERM", "held"))
		fmt.Fprintf(notes, "udp %s\n", sendTo(netip.AddrPortFrom(in.v4, portEcho)))
	}
}

const enoughNotes = 60

// noted returns the words that were written down of one kind.
func noted(in *intruder, kind string) string {
	text, err := os.ReadFile(filepath.Join(in.dir, notesName))
	if err != nil {
		return word(err)
	}
	words := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		before, after, found := strings.Cut(line, " ")
		if found && before == kind && strings.HasSuffix(line, "\n") {
			words[strings.TrimSpace(after)] = true
		}
	}
	var all []string
	for w := range words {
		all = append(all, w)
	}
	return strings.Join(sorted(all), ",")
}

// runToDeath runs the sandbox until it has tried often, and kills the agent.
func (s *stage) runToDeath() error {
	s.cmd.Stdout, s.cmd.Stderr = nil, os.Stderr
	if err := s.cmd.Start(); err != nil {
		return err
	}
	notes := filepath.Join(s.dir, notesName)
	err := await("the sandbox tries", func() bool {
		text, err := os.ReadFile(notes)
		return err == nil && strings.Count(string(text), "\n") > enoughNotes
	})
	group, groupErr := s.cgroup()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	if err := errors.Join(err, groupErr); err != nil {
		return err
	}
	left := "none"
	if err := await("the sandbox's processes end", func() bool { return len(processes(group)) == 0 }); err != nil {
		left = fmt.Sprint(processes(group))
	}
	late := s.connectIn(group)
	return errors.Join(
		os.WriteFile(filepath.Join(s.dir, leftName), []byte(left), 0o644),
		os.WriteFile(filepath.Join(s.dir, lateName), []byte(late), 0o644),
	)
}

// await polls until ok says yes: what is waited for is another process's doing.
func await(what string, ok func() bool) error {
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("waited in vain: " + what)
		}
	}
	return nil
}

// cgroup returns the cgroup of the run's sandbox, which its agent's lock names.
func (s *stage) cgroup() (string, error) {
	root, err := cgroup.Find()
	if err != nil {
		return "", err
	}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.cmd.Process.Pid)) // the pattern is well formed
	for _, link := range links {
		target, _ := os.Readlink(link)
		if dir, is := strings.CutSuffix(target, "/lock"); is && filepath.Dir(dir) == "/run/ringfence" {
			return filepath.Join(root, "ringfence", filepath.Base(dir), "sandbox"), nil
		}
	}
	return "", errors.New("find the agent's instance: it has no lock")
}

func processes(group string) []string {
	text, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// connectIn connects from a process in the cgroup of the dead agent's sandbox, and
// in the host's network namespace, from where there is a way out.
func (s *stage) connectIn(group string) string {
	dir, err := os.Open(group)
	if err != nil {
		return word(err)
	}
	defer dir.Close()
	cmd := s.env.Command(filepath.Join(s.dir, client), actCommand, "dial", "198.51.100.230", "7")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	return said(cmd)
}
