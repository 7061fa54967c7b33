package agent

import (
	"context"
	"os"

	"github.com/ringfence/ringfence/internal/datapath"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/rootfs"
)

// watchExecs tells each sandbox's identities what was started in it.
func (a *Agent) watchExecs(ctx context.Context) {
	if !a.awaitSettled(ctx) {
		return
	}
	err := a.datapath.Execs(ctx, func(cgroupID uint64, id flow.ExecID) {
		if sb := a.sandbox(cgroupID); sb != nil {
			sb.identities.Started(id)
		}
	})
	if err != nil {
		a.cfg.Log.Error("programs are hashed only when they connect", "error", err)
	}
}

// files gives access to the files of one sandbox. It implements identity.Files.
type files struct {
	root     *rootfs.Root
	datapath *datapath.Datapath
}

// Open implements identity.Files.
func (f files) Open(path string) (*os.File, error) {
	file, _, err := f.root.Open(path, rootfs.Others()) // who could change it was seen at exec
	return file, err
}

// Identify implements identity.Files.
func (f files) Identify(file *os.File) (flow.FileID, error) { return f.datapath.IdentifyFile(file) }
