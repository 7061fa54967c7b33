package bypass

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// privilegesGroup: getting privileges back (row 12).
func privilegesGroup() group {
	return group{name: "privileges", runner: client, stage: privilegedPrograms, attempts: func() []attempt {
		// A program that would get more gets nothing, or does not start.
		start := func(name string) func(*intruder) string {
			return func(in *intruder) string {
				got := in.run(filepath.Join(in.dir, name), "privileges")
				if got == "uid 54321 gid 54321 caps 0000000000000000" {
					return "none"
				}
				return got
			}
		}
		return []attempt{
			{row: 12, name: "setuid_program", want: "none", try: start("setuid")},
			{row: 12, name: "setgid_program", want: "none", try: start("setgid")},
			{row: 12, name: "file_capabilities", want: "none EPERM", try: start("filecaps")},
			{row: 12, name: "raw_socket_by_file_capabilities", want: "EPERM EAFNOSUPPORT EPROTONOSUPPORT", try: func(in *intruder) string {
				return in.run(filepath.Join(in.dir, "filecaps"), "raw")
			}},
			{row: 12, name: "capset", want: "EPERM", try: capset},
			{row: 12, name: "ambient", want: "EPERM", try: func(*intruder) string {
				return word(unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_ADMIN, 0, 0))
			}},
			{row: 12, name: "securebits", want: "EPERM", try: func(*intruder) string {
				return word(unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0))
			}},
			{row: 12, name: "no_new_privs_off", want: "EINVAL", try: func(*intruder) string {
				return word(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0))
			}},
			{row: 12, name: "programs_of_the_host", want: "none", try: hostPrograms},
		}
	}}
}

// privilegedPrograms puts programs into the working directory that would get more
// than who starts them, on a machine without a fence.
func privilegedPrograms(s *stage) error {
	err := errors.Join(s.program("setuid", 0o755|os.ModeSetuid), s.program("setgid", 0o755|os.ModeSetgid), s.program("filecaps", 0o755))
	if err != nil {
		return err
	}
	// VFS_CAP_REVISION_2 and effective; permitted: all of the first 32.
	caps := []byte{1, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	err = unix.Setxattr(filepath.Join(s.dir, "filecaps"), "security.capability", caps, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the file system of a small machine: the attempt then shows little
	}
	return err
}

// privileges says who a process is.
func privileges([]string) string {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return word(err)
	}
	field := func(name string) string {
		_, after, _ := strings.Cut(string(text), "\n"+name+":\t")
		line, _, _ := strings.Cut(after, "\n")
		all := strings.Fields(line)
		for _, value := range all {
			if value != all[0] {
				return line
			}
		}
		return all[0]
	}
	caps := field("CapEff")
	for _, set := range []string{"CapInh", "CapPrm", "CapBnd", "CapAmb"} {
		if other := field(set); other != caps {
			caps += " " + set + " " + other
		}
	}
	return "uid " + field("Uid") + " gid " + field("Gid") + " caps " + caps
}

func capset(*intruder) string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	all := [2]unix.CapUserData{{Effective: ^uint32(0), Permitted: ^uint32(0)}, {Effective: ^uint32(0), Permitted: ^uint32(0)}}
	return call(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&all)))
}

// hostPrograms starts what the machine has for people to become root. None must
// succeed; most machines that the suite runs on have few.
func hostPrograms(*intruder) string {
	var found []string
	for _, argv := range [][]string{
		{"sudo", "-n", "id"}, {"su", "-c", "id"}, {"pkexec", "id"}, {"newuidmap", "1", "0", "0", "1"}, {"mount", "/tmp"},
		{"ping", "-c", "1", "-W", "1", "198.51.100.250"}, {"newgrp", "root"}, {"fusermount3", "/tmp"},
	} {
		path, err := exec.LookPath(argv[0])
		if err != nil {
			continue
		}
		if err := exec.Command(path, argv[1:]...).Run(); err == nil {
			found = append(found, argv[0])
		}
	}
	return listOr(found, "none")
}
