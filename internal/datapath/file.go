package datapath

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
)

// found is what the identify_file program returns on success.
const found = 0

// IdentifyFile returns which file an open one is, in the kernel's own words, as it
// stands in exec records: stat's may differ.
func (dp *Datapath) IdentifyFile(file *os.File) (flow.FileID, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return flow.FileID{}, fmt.Errorf("identify file: %w", err)
	}
	var args agentIdentifyFileArgs
	var ret uint32
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&args)), int(unsafe.Sizeof(args)))
	// The program looks the number up in the table of the thread that runs it.
	if ctlErr := raw.Control(func(fd uintptr) {
		args.Fd = uint32(fd)
		ret, err = dp.objects.IdentifyFile.Run(&ebpf.RunOptions{Context: buf, ContextOut: buf})
	}); ctlErr != nil {
		err = ctlErr
	}
	if err == nil && ret != found {
		err = ErrNotFound
	}
	if err != nil {
		return flow.FileID{}, fmt.Errorf("identify file: %w", err)
	}
	return fileID(args.File), nil
}
