package datapath

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// bpffsRoot is where a BPF file system is mounted by convention.
const bpffsRoot = "/sys/fs/bpf"

// mountBPFFS makes sure that the pin directory will lie on a BPF file system.
// Most distributions mount one at boot; where none is, the agent does.
func mountBPFFS(pinDir string) error {
	dir := filepath.Clean(pinDir)
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err == nil && fs.Type == unix.BPF_FS_MAGIC {
			return nil
		}
		if dir == bpffsRoot {
			break
		}
		if dir == "/" || dir == "." {
			return fmt.Errorf("pin directory %s: not below %s", pinDir, bpffsRoot)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
	if err := unix.Mount("bpf", bpffsRoot, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount BPF file system at %s: %w", bpffsRoot, err)
	}
	return nil
}
