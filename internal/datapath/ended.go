package datapath

import (
	"fmt"
	"io"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// dropEnded drops the entries of processes that ended while no hook saw it, and their
// uses of exec records. It returns how many.
func (dp *Datapath) dropEnded() (int, error) {
	// First what there is, then what lives: one that starts meanwhile is in neither.
	entries, err := snapshot(dp.objects.Tasks)
	if err != nil {
		return 0, fmt.Errorf("look for processes that ended: %w", err)
	}
	living, err := dp.livingTasks()
	if err != nil {
		return 0, fmt.Errorf("look for processes that live: %w", err)
	}
	dropped := 0
	for key, value := range entries {
		task := valueAs[agentTask](value)
		args := agentTaskKey{
			Tgid: valueAs[uint32]([]byte(key)), StartBoottime: task.StartBoottime, SelfExecId: task.SelfExecId,
		}
		if living[args] {
			continue
		}
		ret, err := dp.objects.DropTask.Run(&ebpf.RunOptions{Context: bytesOf(&args)})
		if err != nil {
			return dropped, fmt.Errorf("drop process %d: %w", args.Tgid, err)
		}
		if ret == found {
			dropped++
		}
	}
	return dropped, nil
}

func (dp *Datapath) livingTasks() (map[agentTaskKey]bool, error) {
	it, err := link.AttachIter(link.IterOptions{Program: dp.objects.ListTasks})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	list, err := it.Open()
	if err != nil {
		return nil, err
	}
	defer list.Close()
	text, err := io.ReadAll(list)
	if err != nil {
		return nil, err
	}
	living := map[agentTaskKey]bool{}
	for size := int(unsafe.Sizeof(agentTaskKey{})); len(text) >= size; text = text[size:] {
		living[valueAs[agentTaskKey](text)] = true
	}
	return living, nil
}

// valueAs returns what bytes are that the kernel wrote, or that were converted to be
// of this build's layout.
func valueAs[T any](b []byte) (value T) {
	copy(bytesOf(&value), b)
	return value
}

func bytesOf[T any](value *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(value)), unsafe.Sizeof(*value))
}
