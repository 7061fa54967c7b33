package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// goroutines counts goroutines by the function that started them.
func (s *Snapshot) goroutines() {
	buf := make([]byte, 1<<20)
	for len(buf) < 64<<20 {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		lines := strings.Split(stack, "\n")
		if len(lines) < 2 {
			continue
		}
		starter := "main"
		for _, line := range lines {
			if rest, ok := strings.CutPrefix(line, "created by "); ok {
				starter, _, _ = strings.Cut(rest, " in goroutine")
			}
		}
		// The first signal.Notify starts a goroutine for good.
		if starter == "os/signal.Notify.func1.1" {
			continue
		}
		s.add("goroutine", "created by "+starter, "in "+lines[1])
	}
}

// descriptors counts the open files of this process. Pipes, sockets and the like
// are counted by kind, files by path.
func (s *Snapshot) descriptors() error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil {
			continue // the directory itself, closed by now
		}
		name, _, _ := strings.Cut(target, ":[")
		s.add("descriptor", name, "one is "+fd.Name())
	}
	return nil
}

// processes finds the live processes below this one, and their namespaces. It
// also finds namespaces that only a descriptor of this process holds.
func (s *Snapshot) processes() error {
	procs, err := readProcesses()
	if err != nil {
		return err
	}
	seen := make(map[string]bool)
	add := func(link, detail string) {
		if target, err := os.Readlink(link); err == nil && strings.Contains(target, ":[") && !seen[target] {
			seen[target] = true
			s.add("namespace", target, detail)
		}
	}
	self := os.Getpid()
	for pid, p := range procs {
		// A dead process holds nothing, and is its parent's to collect.
		if p.state == "Z" || pid != self && !below(procs, pid, self) {
			continue
		}
		label := fmt.Sprintf("pid %d %s", pid, p.name)
		if pid != self {
			s.add("process", label, "")
		}
		for _, kind := range []string{"net", "mnt", "pid"} {
			add(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), label)
		}
	}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return err
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && isNamespace(target) {
			add(link, "held by a descriptor")
		}
	}
	return nil
}

func isNamespace(target string) bool {
	kind, _, _ := strings.Cut(target, ":[")
	return kind == "net" || kind == "mnt" || kind == "pid"
}

type process struct {
	parent      int
	name, state string
}

// readProcesses reads /proc/PID/stat of everything alive.
func readProcesses() (map[int]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	procs := make(map[int]process)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		// The name stands in brackets and may hold any byte, brackets too.
		text := string(stat)
		open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
		if open < 0 || end < open {
			return nil, fmt.Errorf("parse /proc/%d/stat: %q", pid, text)
		}
		fields := strings.Fields(text[end+1:])
		if len(fields) < 2 {
			return nil, fmt.Errorf("parse /proc/%d/stat: %q", pid, text)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("parse /proc/%d/stat: %w", pid, err)
		}
		procs[pid] = process{parent: parent, name: text[open+1 : end], state: fields[0]}
	}
	return procs, nil
}

// below reports whether ancestor is a parent of pid, at any distance.
func below(procs map[int]process, pid, ancestor int) bool {
	// A reused pid could close a circle: no chain is longer than all processes.
	for range procs {
		pid = procs[pid].parent
		if pid == ancestor {
			return true
		}
	}
	return false
}

// mounts finds mount points, and what lies on mounts of cgroup2 and bpf.
func (s *Snapshot) mounts() error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for line := range strings.Lines(string(info)) {
		fields := strings.Fields(line)
		before, after, ok := strings.Cut(line, " - ")
		if !ok || len(fields) < 6 || len(strings.Fields(after)) < 1 {
			return fmt.Errorf("parse mount: %q", line)
		}
		point, kind := strings.Fields(before)[4], strings.Fields(after)[0]
		if s.named(point) {
			s.add("mount", point, kind)
		}
		switch kind {
		case "cgroup2":
			err = s.tree("cgroup", point, fs.FileMode.IsDir)
		case "bpf":
			err = s.tree("pin", point, func(fs.FileMode) bool { return true })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tree adds the paths below root whose mode is wanted.
func (s *Snapshot) tree(kind, root string, want func(fs.FileMode) bool) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("walk %s: %w", root, err)
		}
		if path != root && want(entry.Type()) && s.named(path) {
			s.add(kind, path, "")
		}
		return nil
	})
}
