package datapath

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/floor"
)

// kernelTypes is where the kernel keeps its types for BPF.
const kernelTypes = "/sys/kernel/btf/vmlinux"

// Requirements says what the object needs of the kernel, and what is there. Nothing
// is attached and nothing stays; only Load says for certain whether all of it loads.
func Requirements() []floor.Requirement {
	return []floor.Requirement{typeInformation(kernelTypes), programTypes(), helpers(), bpfFileSystem(bpffsRoot)}
}

// typeInformation looks for BTF. The tracing programs attach by it, so one that lies
// elsewhere, such as beside the kernel in /boot, is no help.
func typeInformation(path string) floor.Requirement {
	r := floor.Requirement{
		Name: "the kernel's types (BTF)", State: floor.Met, Found: path,
		Hint: "the kernel needs CONFIG_DEBUG_INFO_BTF, as those of distributions have, and /sys has to be mounted",
	}
	if _, err := os.Stat(path); err != nil {
		r.State, r.Found = floor.Missing, err.Error()
	}
	return r
}

// feature is one thing that the library can try in the kernel.
type feature struct {
	name string
	try  func() error
}

// programTypes tries the types of the object's programs, but for tracing: what the
// library tries for it is a kind that the object does not have, and some kernels
// refuse.
func programTypes() floor.Requirement {
	var tried []feature
	for _, t := range []ebpf.ProgramType{ebpf.CGroupSock, ebpf.CGroupSockAddr, ebpf.SockOps, ebpf.CGroupSKB, ebpf.Syscall} {
		tried = append(tried, feature{t.String(), func() error { return features.HaveProgramType(t) }})
	}
	return judgeFeatures("types of BPF programs", tried,
		"the kernel needs CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF; in a container, bpf(2) has to be allowed")
}

// helpers tries those that depend on more than the kernel's version, or came late.
func helpers() floor.Requirement {
	type helper struct {
		name    string
		program ebpf.ProgramType
		fn      asm.BuiltinFunc
	}
	var tried []feature
	for _, h := range []helper{
		{"bpf_loop", ebpf.CGroupSockAddr, asm.FnLoop},
		{"bpf_sk_storage_get", ebpf.CGroupSockAddr, asm.FnSkStorageGet},
		{"bpf_probe_read_kernel", ebpf.RawTracepoint, asm.FnProbeReadKernel},
	} {
		tried = append(tried, feature{h.name, func() error { return features.HaveProgramHelper(h.program, h.fn) }})
	}
	return judgeFeatures("BPF helpers", tried,
		"the kernel's lockdown may not be \"confidentiality\" (see /sys/kernel/security/lockdown)")
}

// judgeFeatures makes one requirement of features: what is refused for want of rights is
// missing for root, and unknown for others.
func judgeFeatures(name string, tried []feature, hint string) floor.Requirement {
	r := floor.Requirement{Name: name, State: floor.Met, Hint: hint}
	var found, lacking []string
	for _, f := range tried {
		switch err := f.try(); {
		case err == nil:
			found = append(found, f.name)
		case errors.Is(err, ebpf.ErrNotSupported):
			lacking = append(lacking, f.name)
		case errors.Is(err, unix.EPERM) && os.Geteuid() != 0:
			r.State, r.Found = floor.Unknown, "only root can tell"
			return r
		default:
			lacking = append(lacking, f.name+" ("+err.Error()+")")
		}
	}
	r.Found = strings.Join(found, ", ")
	if len(lacking) > 0 {
		r.State, r.Found = floor.Missing, "no "+strings.Join(lacking, ", ")
	}
	return r
}

// bpfFileSystem looks at where pins are made: mountBPFFS mounts what is not there.
func bpfFileSystem(root string) floor.Requirement {
	r := floor.Requirement{
		Name: "a BPF file system that can be written", State: floor.Met, Found: "mounted at " + root,
		Hint: "mount -t bpf none " + root + "; in a container, give it the host's",
	}
	var st unix.Statfs_t
	err := unix.Statfs(root, &st)
	if err == nil && st.Type != unix.BPF_FS_MAGIC {
		r.Found, err = "not mounted; a start mounts it", knowsFileSystem("bpf")
	}
	switch {
	case err != nil:
		r.State, r.Found = floor.Missing, root+": "+err.Error()
	case st.Type == unix.BPF_FS_MAGIC && st.Flags&unix.ST_RDONLY != 0:
		r.State, r.Found = floor.Missing, root+" is mounted read-only"
	}
	return r
}

// knowsFileSystem returns an error where the kernel has no file system of a type.
func knowsFileSystem(name string) error {
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(string(text)), name) {
		return &fs.PathError{Op: "mount", Path: name, Err: unix.ENODEV}
	}
	return nil
}
