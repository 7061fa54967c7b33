package bypass

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// taintsGroup: other code under the path of an allowed program (rows 22, 23, 24 and
// 38). Here policy names files that it should not: the sandbox can change them.
func taintsGroup() group {
	return group{name: "taints", runner: stranger, stage: changeablePrograms, attempts: func() []attempt {
		all := append(changedAttempts(), unnamedAttempts()...)
		return append(append(all, preloadAttempts()...), linkAttempts()...)
	}}
}

// changeablePrograms has the policy name what the sandbox's user can change: files
// of its own (lifted: with allow_taints, so that only the hash can tell), files that
// are not there yet, and links.
func changeablePrograms(s *stage) error {
	own := func(name string) string { return filepath.Join(s.dir, "own", name) }
	var errs []error
	for _, name := range []string{"tool", "lifted", "lifted-renamed", "running", "pinned-changed"} {
		errs = append(errs, copyProgram("/proc/self/exe", own(name), 0o755), os.Chown(own(name), userID, userID))
	}
	errs = append(errs,
		os.Symlink(filepath.Join(s.dir, client), own("link")),
		os.Symlink(filepath.Join(s.dir, client), own("middle")),
		os.Symlink(own("middle"), filepath.Join(s.dir, "first")),
		os.Mkdir(own("bin"), 0o755), os.Symlink(filepath.Join(s.dir, client), own("bin/tool")),
		os.Symlink(own("bin"), filepath.Join(s.dir, "bin")),
		os.Lchown(own("link"), userID, userID), os.Lchown(own("middle"), userID, userID), os.Chown(own("bin"), userID, userID),
	)
	s.programs = append(s.programs, own("tool"), own("running"), "/tmp/tool", "/tmp/gone",
		own("link"), filepath.Join(s.dir, "first"), filepath.Join(s.dir, "bin/tool"))
	if shell, err := filepath.EvalSymlinks("/bin/bash"); err == nil {
		s.programs = append(s.programs, shell)
	}
	// Root's: of a file in memory that the user can write no hash would count.
	pinned := filepath.Join(s.dir, "pinned")
	sum, err := digest("/proc/self/exe")
	errs = append(errs, err, copyProgram("/proc/self/exe", pinned, 0o755))
	s.policies = "  lifted:\n    endpoints:\n      - {host: \"*.open.test\", ports: [7]}\n    binaries:\n"
	s.lifted = []string{own("lifted"), own("lifted-renamed"), pinned}
	for _, name := range []string{"lifted", "lifted-renamed"} {
		s.policies += fmt.Sprintf("      - {path: %q, allow_taints: [writable]}\n", own(name))
	}
	s.policies += fmt.Sprintf("      - {path: %q, sha256: %q}\n", pinned, sum)
	s.policies += fmt.Sprintf("      - {path: %q, allow_taints: [writable], sha256: %q}\n", own("pinned-changed"), sum)
	return errors.Join(errs...)
}

func digest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), nil
}

// refusedAs is the record of a program that would match, but for its taints.
func refusedAs(program, taints string) told {
	return told{reason: "tainted", mode: "transparent", by: program, taints: taints}
}

// changedAs is the record of one that would match, but for the hash of its file. A
// file that was written a moment ago has none yet.
func changedAs(program, reason string) told {
	return told{reason: reason + " hash_unavailable", mode: "transparent", by: program}
}

// changedAttempts change the file under an allowed path (row 22).
func changedAttempts() []attempt {
	own := func(name string) string { return "own/" + name }
	run := func(in *intruder, name string) string {
		return in.run(filepath.Join(in.own, name), "connect", in.open, "7")
	}
	return []attempt{
		{row: 22, name: "own_file_unchanged", want: reset, told: refusedAs(own("tool"), "writable"),
			try: func(in *intruder) string { return run(in, "tool") }},
		{row: 22, name: "overwritten", want: reset, told: refusedAs(own("tool"), "writable"), try: func(in *intruder) string {
			if err := changeInPlace(filepath.Join(in.own, "tool")); err != nil {
				return "prepare: " + word(err)
			}
			return run(in, "tool")
		}},
		{row: 22, name: "overwritten_after_first_use", want: reset, told: changedAs(own("lifted"), "hash_changed"), try: func(in *intruder) string {
			// The first use is what is trusted. Where it is refused already, so much the better.
			if got := run(in, "lifted"); got != data && got != reset {
				return "first: " + got
			}
			if err := changeInPlace(filepath.Join(in.own, "lifted")); err != nil {
				return "prepare: " + word(err)
			}
			return run(in, "lifted")
		}},
		{row: 22, name: "renamed_over_after_first_use", want: reset, told: changedAs(own("lifted-renamed"), "hash_changed"), try: func(in *intruder) string {
			if got := run(in, "lifted-renamed"); got != data && got != reset {
				return "first: " + got
			}
			if err := changeByRename(in, filepath.Join(in.own, "lifted-renamed")); err != nil {
				return "prepare: " + word(err)
			}
			return run(in, "lifted-renamed")
		}},
		{row: 22, name: "pinned", want: data, told: told{reason: "allowed", verdict: "allow", by: "pinned"},
			try: func(in *intruder) string { return in.run(filepath.Join(in.dir, "pinned"), "connect", in.open, "7") }},
		{row: 22, name: "pinned_then_changed", want: reset, told: changedAs(own("pinned-changed"), "hash_mismatch"), try: func(in *intruder) string {
			if err := changeInPlace(filepath.Join(in.own, "pinned-changed")); err != nil {
				return "prepare: " + word(err)
			}
			return run(in, "pinned-changed")
		}},
		{row: 22, name: "write_while_it_runs", want: "ETXTBSY", try: func(in *intruder) string {
			return whileRunning(in, func(path string) string { return openWord(path, unix.O_WRONLY) })
		}},
		{row: 22, name: "renamed_over_while_it_runs", want: reset, told: refusedAs(own("running"), "writable"), try: func(in *intruder) string {
			return whileRunning(in, func(path string) string {
				if err := changeByRename(in, path); err != nil {
					return "prepare: " + word(err)
				}
				return in.run(path, "connect", in.open, "7")
			})
		}},
		{row: 22, name: "roots_file", want: "EACCES", try: func(in *intruder) string { return openWord(in.client(), unix.O_WRONLY) }},
		{row: 22, name: "over_roots_file", want: "EACCES EPERM", try: func(in *intruder) string {
			mine := filepath.Join(in.own, "mine")
			if err := copyProgram(in.stranger(), mine, 0o755); err != nil {
				return word(err)
			}
			return word(unix.Rename(mine, in.client()))
		}},
	}
}

// changeInPlace makes another program of a file, which does the same.
func changeInPlace(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString("another")
	return errors.Join(err, file.Close())
}

// changeByRename puts another file in its place.
func changeByRename(in *intruder, path string) error {
	return errors.Join(copyProgram(in.stranger(), path+".new", 0o755), changeInPlace(path+".new"), os.Rename(path+".new", path))
}

// whileRunning does something while own/running runs.
func whileRunning(in *intruder, do func(path string) string) string {
	path := filepath.Join(in.own, "running")
	cmd := exec.Command(path, actCommand, "wait")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return word(err)
	}
	if err := cmd.Start(); err != nil {
		return word(err)
	}
	got := do(path)
	_ = stdin.Close()
	_ = cmd.Wait()
	return got
}

// unnamedAttempts run what has no name, or one in a place of the sandbox's own
// (row 23).
func unnamedAttempts() []attempt {
	return []attempt{
		{row: 23, name: "memfd", want: reset, told: told{reason: "tainted wrong_binary", taints: "memfd"}, try: func(in *intruder) string {
			return in.run(in.stranger(), "memfd", in.client(), in.open)
		}},
		{row: 23, name: "deleted", want: reset, told: refusedAs("/tmp/gone", "deleted"), try: func(in *intruder) string {
			if err := copyProgram(in.client(), "/tmp/gone", 0o755); err != nil {
				return word(err)
			}
			return in.run(in.stranger(), "deleted", "/tmp/gone", in.open)
		}},
		{row: 23, name: "on_own_mount", want: reset, told: refusedAs("/tmp/tool", "writable"), try: func(in *intruder) string {
			if err := copyProgram(in.stranger(), "/tmp/tool", 0o755); err != nil {
				return word(err)
			}
			return in.run("/tmp/tool", "connect", in.open, "7")
		}},
	}
}

// runMemfd runs a copy of a program that is in no file system.
func runMemfd(a []string) string {
	fd, err := unix.MemfdCreate(filepath.Base(a[0]), 0)
	if err != nil {
		return word(err)
	}
	content, err := os.ReadFile(a[0])
	if err != nil {
		return word(err)
	}
	for len(content) > 0 {
		n, err := unix.Write(fd, content)
		if err != nil {
			return word(err)
		}
		content = content[n:]
	}
	// A script or a writer of it would make it busy: it is opened once more to run.
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	again, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return word(err)
	}
	_ = unix.Close(fd)
	return execFD(again, a[0], actCommand, "connect", a[1], "7")
}

// runDeleted runs a file that it deletes first.
func runDeleted(a []string) string {
	fd, err := unix.Open(a[0], unix.O_RDONLY, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Unlink(a[0]); err != nil {
		return word(err)
	}
	return execFD(fd, a[0], actCommand, "connect", a[1], "7")
}

// preloadAttempts have other code loaded into the allowed program (row 24). This
// one is static and takes no notice: what counts is that the fence does.
func preloadAttempts() []attempt {
	// Whoever may run an interpreter may give it a file: it is told, no more.
	scripted := told{reason: "allowed", verdict: "allow", mode: "transparent", by: client, taints: "script"}
	all := []attempt{
		{row: 24, name: "loader", want: reset + " absent", told: maybeTainted("loader"), try: byLoader},
		{row: 24, name: "script_of_client", want: data, told: scripted, try: func(in *intruder) string {
			if err := os.WriteFile("/tmp/script", []byte("#!"+in.client()+" act\n"), 0o755); err != nil {
				return word(err)
			}
			return in.run("/tmp/script", "connect", in.open, "7")
		}},
	}
	for _, variable := range flow.PreloadVariables() {
		all = append(all, attempt{row: 24, name: variable, want: reset, told: refusedAs(client, "preload"), try: func(in *intruder) string {
			cmd := exec.Command(in.client(), actCommand, "connect", in.open, "7")
			cmd.Env = []string{variable + "=/tmp/other"}
			return said(cmd)
		}})
	}
	return all
}

// maybeTainted is for what not every machine has.
func maybeTainted(taint string) told {
	return told{reason: "wrong_binary tainted", taints: taint, maybe: true}
}

// byLoader runs a program that policy names by the dynamic loader: then the loader
// is the image.
func byLoader(in *intruder) string {
	loaders, _ := filepath.Glob("/lib*/ld-linux*.so.*") // the pattern is well formed
	shell, err := filepath.EvalSymlinks("/bin/bash")
	if len(loaders) == 0 || err != nil {
		return "absent"
	}
	script := "exec 3<>/dev/tcp/" + in.open + "/7; echo hello >&3; read -r line <&3 && echo data || echo reset"
	return said(exec.Command(loaders[0], shell, "-c", script))
}

// linkAttempts re-point links that policy names (row 38).
func linkAttempts() []attempt {
	repoint := func(link string, through ...string) func(*intruder) string {
		return func(in *intruder) string {
			path := filepath.Join(in.own, link)
			if err := errors.Join(os.Remove(path), os.Symlink(in.stranger(), path)); err != nil {
				return "prepare: " + word(err)
			}
			if len(through) > 0 {
				path = filepath.Join(in.dir, through[0])
			}
			return againAndAgain(in, path)
		}
	}
	strangers := refusedAs(stranger, "")
	return []attempt{
		{row: 38, name: "own_link", want: reset, told: strangers, try: repoint("link")},
		{row: 38, name: "link_to_own_link", want: reset, told: strangers, try: repoint("middle", "first")},
		{row: 38, name: "link_in_own_directory", want: reset, told: strangers, try: repoint("bin/tool", "bin/tool")},
		{row: 38, name: "own_directory_replaced", want: reset, told: strangers, try: func(in *intruder) string {
			err := errors.Join(os.Rename(filepath.Join(in.own, "bin"), filepath.Join(in.own, "old")),
				os.Mkdir(filepath.Join(in.own, "bin"), 0o755), os.Symlink(in.stranger(), filepath.Join(in.own, "bin/tool")))
			if err != nil {
				return "prepare: " + word(err)
			}
			return againAndAgain(in, filepath.Join(in.dir, "bin/tool"))
		}},
		{row: 38, name: "roots_link", want: "EACCES", try: func(in *intruder) string {
			return word(unix.Unlink(filepath.Join(in.dir, "first")))
		}},
	}
}

// againAndAgain runs a program before and after the agent has seen where the link
// leads now: nothing inside tells when that is.
func againAndAgain(in *intruder, path string) string {
	for range 6 {
		if got := in.run(path, "connect", in.open, "7"); got != reset {
			return got
		}
		time.Sleep(200 * time.Millisecond)
	}
	return reset
}
