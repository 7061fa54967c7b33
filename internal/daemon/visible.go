package daemon

import (
	"path/filepath"
	"strings"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// visible are the directories of the host's that a sandbox sees where it has others of
// its own.
func visible(spec *pb.SandboxSpec) []string {
	dirs := append([]string{}, spec.GetVisible()...)
	if dir := spec.GetWorkdir(); dir != "" {
		dirs = append(dirs, dir)
	}
	return dirs
}

// checkVisible refuses directories by which a sandbox would see the agent's own: only
// the check of who connects would stand between it and the control API then. Links are
// followed as they lead now; the sandbox's view follows none that others could change.
func (d *Daemon) checkVisible(dirs []string) error {
	own := []string{d.cfg.Socket, d.cfg.SSH.Socket, d.cfg.StateDir, "/run/ringfence", "/sys", "/proc", "/dev"}
	for _, dir := range dirs {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return api.FailedPrecondition("make the directory first, or name another", "directory %q of the sandbox: %v", dir, err)
		}
		for _, path := range own {
			if target, err := filepath.EvalSymlinks(path); err == nil {
				path = target
			}
			if within(path, real) || within(real, path) {
				return api.InvalidArgument("name the directory that the sandbox's programs work in, and nothing above it",
					"directory %q would show the sandbox %s, which is the agent's or the kernel's", dir, path)
			}
		}
	}
	return nil
}

// within reports whether a path is a directory, or lies below it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
